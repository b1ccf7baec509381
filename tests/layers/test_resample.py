"""Resampling against the closed forms of score_sde.md 9a, and its fusions with convolutions."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.layers import resample
from genjax.layers.conv import SAME, convolve

FIR = (1, 3, 3, 1)


def one(x):
    return jnp.asarray(x, jnp.float32)[None, :, :, None]


def test_up_attenuates_the_border_and_spreads_an_impulse():
    up = resample.upsample(one(np.ones((4, 4))), FIR)[0, :, :, 0]
    edge, inside = np.ones(8), np.ones(8)
    edge[[0, -1]] = inside[[0, -1]] = 0.75
    want = np.outer(inside, edge)
    assert (want[0, 0], want[0, 3], want[3, 3]) == (0.5625, 0.75, 1)
    np.testing.assert_allclose(up, want, atol=1e-6)

    impulse = np.zeros((4, 4))
    impulse[1, 1] = 1
    spread = np.zeros((8, 8))
    spread[1:5, 1:5] = np.outer(FIR, FIR) / 16
    np.testing.assert_allclose(resample.upsample(one(impulse), FIR)[0, :, :, 0], spread, atol=1e-6)


def test_down_attenuates_the_border_and_shifts_a_ramp():
    down = resample.downsample(one(np.ones((8, 8))), FIR)[0, :, :, 0]
    assert down.shape == (4, 4)
    np.testing.assert_allclose(down[0], [0.765625, 0.875, 0.875, 0.765625], atol=1e-6)
    np.testing.assert_allclose(down[1], [0.875, 1, 1, 0.875], atol=1e-6)
    ramp = np.tile(np.arange(8.0), (8, 1))
    np.testing.assert_allclose(
        resample.downsample(one(ramp), FIR)[0, 1, :, 0], [0.625, 2.5, 4.5, 5.5], atol=1e-6
    )


def test_box_repeats_and_averages_as_its_filter_does():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 4, 6, 3)), jnp.float32)
    up, down = resample.upsample(x), resample.downsample(x)
    np.testing.assert_array_equal(up[:, 1::2, ::2], x)
    np.testing.assert_allclose(resample.downsample(up), x, atol=1e-6)
    # The general path at taps that are the box in disguise.
    np.testing.assert_allclose(resample.upsample(x, (2, 2)), up, atol=1e-6)
    np.testing.assert_allclose(resample.downsample(x, (2, 2)), down, atol=1e-6)


def test_channels_do_not_mix_and_half_precision_stays():
    x = jnp.zeros((1, 8, 8, 2), jnp.bfloat16).at[..., 1].set(1)
    for y in (resample.upsample(x, FIR), resample.downsample(x, FIR)):
        assert y.dtype == jnp.bfloat16
        assert not np.any(y[..., 0]) and y[0, 2, 2, 1] == 1


@pytest.mark.parametrize("taps", [(1, 1), FIR])
def test_fused_convolutions_equal_convolution_and_filter(taps):
    """On images with a border of zeros, where it does not matter what stands outside."""
    rng = np.random.default_rng(1)
    x = np.zeros((2, 16, 16, 3), np.float32)
    x[:, 6:10, 6:10] = rng.standard_normal((2, 4, 4, 3))
    w = jnp.asarray(rng.standard_normal((3, 3, 3, 4)), jnp.float32)
    x = jnp.asarray(x)
    down = resample.filter_then_conv(x, w, taps)
    assert down.shape == (2, 8, 8, 4)
    np.testing.assert_allclose(
        down, resample.downsample(convolve(x, w, padding=SAME), taps), atol=1e-5
    )
    up = resample.conv_then_filter(x, w, taps)
    assert up.shape == (2, 32, 32, 4)
    np.testing.assert_allclose(up, convolve(resample.upsample(x, taps), w), atol=1e-5)


def test_the_border_of_the_fused_convolution_is_the_reference_s():
    """A convolution padded by 2, then every second pixel of its filtered output."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((1, 8, 8, 2)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((3, 3, 2, 3)), jnp.float32)
    y = np.asarray(convolve(x, w, padding=((2, 2), (2, 2))))
    k = np.outer(FIR, FIR) / 64
    want = np.zeros((1, 4, 4, 3))
    for i in range(4):
        for j in range(4):
            patch = y[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            want[:, i, j] = np.einsum("bxyc,xy->bc", patch, k)
    np.testing.assert_allclose(resample.filter_then_conv(x, w, FIR), want, atol=1e-5)


def test_filters_that_are_none_are_refused():
    for taps in ((), (1, 2, 1), (1, 2), (1, -1, -1, 1)):
        with pytest.raises(ValueError, match="no symmetric filter"):
            resample.check(taps)
