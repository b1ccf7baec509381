"""The linear map, its initial bounds and the activation inside an MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.layers.linear import Linear, zeros
from genjax.layers.mlp import gelu


def test_kernels_of_several_axes_are_one_matrix():
    x = jax.random.normal(jax.random.key(0), (5, 2, 3, 4))
    module = Linear((2, 6), ("heads", "kv", None, "mlp"), inputs=2)
    variables = module.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert kernel.names == ("heads", "kv", None, "mlp") and kernel.value.shape == (3, 4, 2, 6)
    assert variables["params"]["bias"].names == (None, "mlp")
    want = x.reshape(5, 2, 12) @ kernel.value.reshape(12, 12)
    found = module.apply(nn.unbox(variables), x)
    np.testing.assert_allclose(found, want.reshape(5, 2, 2, 6), atol=1e-5)
    # Xavier of the 12 x 12 matrix: the bound is reached and not passed.
    bound = (6 / 24) ** 0.5
    assert 0.95 * bound < float(jnp.abs(kernel.value).max()) <= bound


def test_dtype_is_that_of_the_product_and_parameters_stay_float32():
    x = jnp.ones((2, 3))
    module = Linear((4,), ("embed", "mlp"), kernel_init=zeros, use_bias=False, dtype="bfloat16")
    variables = nn.unbox(module.init(jax.random.key(0), x))
    assert list(variables["params"]) == ["kernel"]
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert module.apply(variables, x).dtype == jnp.bfloat16


def test_gelu_is_the_tanh_form_and_keeps_only_its_input():
    x = jnp.linspace(-4, 4, 33)
    want = 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(gelu(x), want, atol=1e-6)
    residuals = [r for r in jax.tree.leaves(jax.vjp(gelu, x)[1]) if r.size > 1]
    assert len(residuals) == 1
