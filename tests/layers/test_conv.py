"""Convolutions, group normalisation and resampling against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from genjax.layers.conv import DOWN, NONE, SAME, conv, convolve, upsample
from genjax.parallel import Rules, using


def test_down_pads_bottom_and_right_only():
    # The kernel copies its top-left tap: input pixel (2i, 2j) if nothing pads top or left.
    layer = conv(1, stride=2, padding=DOWN, dtype="float32")
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(1)}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [8, 10]])


def test_upsample_repeats_pixels():
    x = jnp.arange(4.0).reshape(1, 1, 2, 2, 1)  # a leading axis more, as in videos
    want = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(upsample(x)[0, 0, :, :, 0], want)


def of_xla(x, weight, strides, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    strides = (strides, strides)
    return jax.lax.conv_general_dilated(x, weight, strides, padding, dimension_numbers=dimensions)


@pytest.mark.parametrize(
    ("strides", "padding", "size"),
    [(1, SAME, 3), (1, DOWN, 3), (1, NONE, 3), (1, SAME, 2), (1, NONE, 1), (2, DOWN, 3)],
)
def test_convolution_and_its_derivatives_equal_xlas(strides, padding, size):
    x, dx = jax.random.normal(jax.random.key(0), (2, 3, 18, 17, 5))
    weight, dweight = jax.random.normal(jax.random.key(1), (2, size, size, 5, 4))

    def answers(fn):
        y, tangent = jax.jvp(fn, (x, weight), (dx, dweight))
        return y, tangent, *jax.grad(lambda *a: jnp.sum(fn(*a) ** 2), (0, 1))(x, weight)

    ours = answers(lambda x, w: convolve(x, w, strides=strides, padding=padding))
    for got, want in zip(ours, answers(lambda x, w: of_xla(x, w, strides, padding)), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


def test_convolution_has_second_derivatives_in_both_directions():
    x, v = jax.random.normal(jax.random.key(0), (2, 2, 16, 16, 3))
    weight = jax.random.normal(jax.random.key(1), (3, 3, 3, 2))

    def slope(fn, weight):  # of a nonlinear function of x, along v: forward, then in reverse
        return jnp.sum(jax.jvp(lambda x: jnp.sin(fn(x, weight)), (x,), (v,))[1] ** 2)

    got = jax.grad(lambda w: slope(convolve, w))(weight)
    want = jax.grad(lambda w: slope(lambda x, w: of_xla(x, w, 1, SAME), w))(weight)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6 * np.abs(want).max())


def loops(fn, *args) -> bool:
    return "scan" in str(jax.make_jaxpr(fn)(*args))


def test_weight_gradient_goes_by_image_on_one_device_and_not_on_a_mesh():
    x = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
    weight = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    gradient = jax.grad(lambda w, x: jnp.sum(jnp.sin(convolve(x, w))))
    small = x[:, :8]
    assert loops(gradient, weight, x) and not loops(gradient, weight, small)
    want = gradient(weight, x)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def on_mesh(weight, x):
        with using(mesh, Rules()):
            return gradient(weight, x)

    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert not loops(on_mesh, weight, spread)
    np.testing.assert_allclose(jax.jit(on_mesh)(weight, spread), want, atol=1e-5)
    # Rows spread over devices that nothing told of: slower, and right.
    np.testing.assert_allclose(jax.jit(gradient)(weight, spread), want, atol=1e-5)
