"""Resizing against Pillow, bit for bit where pixels are 8-bit, and against the formulas."""

import numpy as np
import pytest
from PIL import Image

from genjax.core.resize import centre_crop, matrix, resize, resize_uint8, short_side, to_uint8

PILLOW = {"bicubic-antialias": Image.Resampling.BICUBIC}
PILLOW["bilinear-antialias"] = Image.Resampling.BILINEAR
SIZES = [((32, 32), (299, 299)), ((37, 50), (20, 64)), ((64, 40), (64, 13)), ((300, 7), (31, 31))]


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, *shape, 3), np.uint8)


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize("old, new", SIZES)
def test_uint8_is_pillow_s_to_the_bit(kind, old, new):
    x = pixels(old)
    # Two calls, for Pillow's order of rows and columns has depended on its version and the sizes.
    wide = [Image.fromarray(i).resize((new[1], old[0]), PILLOW[kind]) for i in x]
    want = [np.asarray(i.resize(new[::-1], PILLOW[kind])) for i in wide]
    np.testing.assert_array_equal(resize_uint8(x, *new, kind), want)


@pytest.mark.parametrize("old, new", [(32, 299), (100, 64), (65, 32)])
def test_squares_in_one_call(old, new):
    x = pixels((old, old))
    want = [np.asarray(Image.fromarray(i).resize((new, new), Image.Resampling.BICUBIC)) for i in x]
    np.testing.assert_array_equal(resize_uint8(x, new, new, "bicubic-antialias"), want)


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize("old, new", SIZES)
def test_float_is_pillow_s(kind, old, new):
    x = pixels(old)
    want = np.empty((2, *new, 3), np.float32)
    for i in range(2):
        for c in range(3):
            plane = Image.fromarray(x[i, :, :, c].astype(np.float32), mode="F")
            want[i, :, :, c] = np.asarray(plane.resize(new[::-1], PILLOW[kind]))
    np.testing.assert_allclose(resize(x, *new, kind), want, atol=1e-5 * 255)


@pytest.mark.parametrize("old, new", SIZES)
def test_tf1_reads_at_multiples_of_the_step(old, new):
    x = pixels(old).astype(np.float64)

    def along(x, axis, out):
        size = x.shape[axis]
        at = np.arange(out) * (size / out)
        low = at.astype(int)
        high = np.minimum(low + 1, size - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = out
        part = (at - low).reshape(shape)
        return x.take(low, axis) * (1 - part) + x.take(high, axis) * part

    want = along(along(x, 1, new[0]), 2, new[1])
    np.testing.assert_allclose(resize(x, *new, "tf1"), want, atol=1e-5 * 255)


def test_how_far_the_two_bilinear_conventions_are_apart():
    # From 32 to 299 pixels the sampling positions differ by up to 0.446 pixels either way.
    columns = np.arange(32)
    apart = matrix(32, 299, "tf1") @ columns - matrix(32, 299, "bilinear") @ columns
    assert 0.4 < np.abs(apart).max() < 0.45


@pytest.mark.parametrize("kind", ["tf1", "bilinear", "bicubic", *PILLOW])
def test_rows_sum_to_one_and_equal_sizes_change_nothing(kind):
    for size, out in ((5, 9), (9, 5), (1, 4), (8, 8)):
        np.testing.assert_allclose(matrix(size, out, kind).sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(matrix(6, 6, kind), np.eye(6), atol=1e-12)


def test_unknown_kinds_and_empty_sides():
    with pytest.raises(ValueError, match="'lanczos' is no way"):
        matrix(3, 4, "lanczos")
    with pytest.raises(ValueError, match="cannot resize"):
        matrix(0, 4, "tf1")


def test_rounding_to_uint8():
    y = np.linspace(-1.2, 1.2, 4001).astype(np.float32)
    found = np.asarray(to_uint8(y)).astype(int)
    want = np.clip(np.floor((y.astype(np.float64) + 1) * 127.5 + 0.5), 0, 255)
    assert np.abs(found - want).max() == 0
    levels = np.arange(256) / 127.5 - 1
    np.testing.assert_array_equal(to_uint8(levels.astype(np.float32)), np.arange(256))
    other = np.clip(np.floor((y + 1) / 2 * 255), 0, 255)
    inside = np.abs(y) < 1
    assert 0.45 < np.mean(other[inside] != found[inside]) < 0.55  # the other formula: half differ


def test_short_side_and_crop():
    assert short_side(480, 640, 224) == (224, 298)
    assert short_side(640, 480, 224) == (298, 224)
    x = np.arange(2 * 5 * 6).reshape(1, 5, 12, 1)
    np.testing.assert_array_equal(centre_crop(x, 3, 4), x[:, 1:4, 4:8])
    with pytest.raises(ValueError, match="cannot crop"):
        centre_crop(x, 6, 4)
