"""PSNR by hand, SSIM against its definition window by window, MS-SSIM from SSIM's parts."""

import numpy as np
import pytest

from genjax.evaluation.pairs import SCALES, ms_ssim, psnr, ssim


def pair(h, w, c=3, seed=0, noise=20.0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (2, h, w, c)).astype(np.float64)
    for axis in (1, 2):  # smooth, as images are
        x = (x + np.roll(x, 1, axis) + np.roll(x, 2, axis)) / 3
    y = np.clip(x + rng.normal(0, noise, x.shape), 0, 255)
    return x.astype(np.uint8), y.astype(np.uint8)


def by_windows(x, y):
    """Returns the maps of SSIM and of its second factor, a window at a time, float64."""
    at = np.arange(11) - 5
    g = np.exp(-(at**2) / (2 * 1.5**2))
    w = np.outer(g, g) / g.sum() ** 2
    h, width = x.shape[0] - 10, x.shape[1] - 10
    whole, part = np.empty((2, h, width, x.shape[2]))
    for i in range(h):
        for j in range(width):
            a, b = (v[i : i + 11, j : j + 11].astype(np.float64) for v in (x, y))
            mean = lambda v: np.einsum("ij,ijc->c", w, v)  # noqa: E731
            ma, mb = mean(a), mean(b)
            va, vb, vab = mean((a - ma) ** 2), mean((b - mb) ** 2), mean((a - ma) * (b - mb))
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            part[i, j] = (2 * vab + c2) / (va + vb + c2)
            whole[i, j] = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1) * part[i, j]
    return whole, part


def test_psnr_by_hand():
    x = np.zeros((3, 2, 2, 1), np.uint8)
    y = x.copy()
    y[0, 0, 0, 0] = 2  # MSE 1
    y[1] = 255  # MSE 255^2
    want = [10 * np.log10(255**2), 0, 100]  # equal images: the limit
    np.testing.assert_allclose(psnr(x, y), want, atol=1e-12)


@pytest.mark.parametrize("shape", [(11, 11, 1), (16, 23, 3)])
def test_ssim_is_the_mean_over_windows(shape):
    x, y = pair(*shape)
    want = [by_windows(a, b)[0].mean() for a, b in zip(x, y)]
    np.testing.assert_allclose(ssim(x, y), want, atol=1e-5)
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)
    np.testing.assert_allclose(ssim(y, x), ssim(x, y), atol=1e-6)
    unit = ssim(x / 255.0, y / 255.0, data_range=1.0)
    np.testing.assert_allclose(unit, want, atol=1e-5)


def test_ms_ssim_is_the_product_over_scales():
    x, y = pair(176, 178, c=1)
    found = ms_ssim(x, y)
    for n in range(2):
        a, b, product = x[n].astype(np.float64), y[n].astype(np.float64), 1.0
        for i, weight in enumerate(SCALES):
            whole, part = by_windows(a, b) if min(a.shape[:2]) < 60 else fast(a, b)
            product *= max((whole if i == 4 else part).mean(), 0) ** weight
            a, b = (
                v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2]
                .reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2, 1)
                .mean((1, 3))
                for v in (a, b)
            )
        assert found[n] == pytest.approx(product, abs=1e-5)
    np.testing.assert_allclose(ms_ssim(x, x), 1, atol=1e-6)


def fast(x, y):
    """The same maps as `by_windows` by scipy's filter, which the larger scales need."""
    from scipy.ndimage import correlate1d

    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    g /= g.sum()
    blur = lambda v: correlate1d(correlate1d(v, g, 0), g, 1)[5:-5, 5:-5]  # noqa: E731
    ma, mb = blur(x), blur(y)
    va, vb, vab = blur(x * x) - ma**2, blur(y * y) - mb**2, blur(x * y) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    part = (2 * vab + c2) / (va + vb + c2)
    return (2 * ma * mb + c1) / (ma**2 + mb**2 + c1) * part, part


def test_small_and_unequal_images_are_refused():
    x = np.zeros((1, 10, 40, 1))
    with pytest.raises(ValueError, match="at least 11"):
        ssim(x, x)
    with pytest.raises(ValueError, match="at least 176"):
        ms_ssim(np.zeros((1, 170, 200, 1)), np.zeros((1, 170, 200, 1)))
    with pytest.raises(ValueError, match="one shape"):
        ssim(np.zeros((1, 12, 12, 1)), np.zeros((1, 12, 13, 1)))
