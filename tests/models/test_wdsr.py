import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten
from genjax.models.wdsr import VARIANTS, WDSR, NormedConv, pixel_shuffle


@pytest.mark.parametrize("variant", ["512", "1024"])
def test_the_body_has_the_sheets_weights(variant):
    model = WDSR(**VARIANTS[variant])
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    kernels = {k: v for k, v in flatten(nn.unbox(made)["params"]).items() if k.endswith("kernel")}
    body = sum(v.size for k, v in kernels.items() if "block_" in k)
    assert body == 14_155_776 * model.stages
    shape = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, 16, 16, 3))), made).shape
    assert shape == (1, 16 * model.factor, 16 * model.factor, 3)
    assert model.factor == int(variant) // 256


def test_pixel_shuffle_has_its_inverse():
    y = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    x = y.reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 3, 12)
    np.testing.assert_array_equal(pixel_shuffle(x), y)


def test_kernels_have_a_norm_of_their_own():
    layer = NormedConv(2, 3, (None, None), "float32")
    x = jax.random.normal(jax.random.key(0), (1, 5, 5, 3))
    params = nn.unbox(layer.init(jax.random.key(1), x))["params"]
    y = layer.apply({"params": params}, x)
    plain = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(y, plain, atol=1e-5)
    longer = {**params, "kernel": 7.0 * params["kernel"]}
    np.testing.assert_allclose(layer.apply({"params": longer}, x), y, atol=1e-5)
    gained = {**params, "gain": 2.0 * params["gain"]}
    np.testing.assert_allclose(layer.apply({"params": gained}, x), 2 * y, atol=1e-5)


def test_wrong_fields_are_refused():
    for fields, message in (({"stages": 0}, "stages"), ({"dtype": "float16"}, "dtype")):
        with pytest.raises(ValueError, match=message):
            WDSR(**fields)
