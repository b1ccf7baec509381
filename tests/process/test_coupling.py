import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import COUPLINGS


def test_independent_noise_is_standard_normal():
    x0 = jnp.ones((64, 16, 16, 4))
    same, eps = COUPLINGS.build({"name": "independent"}).sample(jax.random.key(0), x0, {})
    assert same is x0 and eps.shape == x0.shape and eps.dtype == jnp.float32
    n = eps.size
    assert abs(float(eps.mean())) < 5 / np.sqrt(n)
    assert abs(float((eps**2).mean()) - 1) < 5 * np.sqrt(2 / n)


def test_paired_noise_is_the_streams():
    paired = COUPLINGS.build({"name": "paired", "field": "z"})
    x0 = jnp.ones((2, 3, 3, 1))
    z = np.arange(18.0).reshape(x0.shape)
    _, eps = paired.sample(jax.random.key(0), x0, {"image": x0, "z": z})
    np.testing.assert_array_equal(eps, z)
    assert eps.dtype == jnp.float32
    with pytest.raises(UserError, match="no 'z', it has"):
        paired.sample(jax.random.key(0), x0, {"image": x0})
    with pytest.raises(UserError, match="has shape"):
        paired.sample(jax.random.key(0), x0, {"z": z[:1]})
