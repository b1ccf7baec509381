"""Distances of pairs of images: PSNR, SSIM, MS-SSIM. Images [b, h, w, c], a value an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest first
PSNR_LIMIT = 100.0  # dB, for images so equal that the ratio has no bound


def psnr(x: np.ndarray, y: np.ndarray, data_range: float = 255.0) -> np.ndarray:
    """Returns 10 log10(range^2 / MSE) in dB of every pair, float64 [b], at most 100."""
    difference = np.asarray(x, np.float64) - np.asarray(y, np.float64)
    mse = np.mean(difference**2, axis=(1, 2, 3))
    floor = data_range**2 * 10.0 ** (-PSNR_LIMIT / 10)
    return 10.0 * np.log10(data_range**2 / np.maximum(mse, floor))


def ssim(x: Array, y: Array, data_range: float = 255.0) -> Array:
    """Returns the structural similarity of every pair, float32 [b] (Wang et al. 2004).

    Gaussian window of 11 pixels and sigma 1.5, the covariances of the window's weights (not the
    sample ones), windows that lie inside the image, mean over pixels and channels. Raises
    `ValueError` for images smaller than the window.
    """
    return jnp.mean(_maps(x, y, data_range)[0], axis=(1, 2, 3))


def ms_ssim(x: Array, y: Array, data_range: float = 255.0) -> Array:
    """Returns the multi-scale structural similarity of every pair, float32 [b].

    Five scales, each half of the one before (mean of 2 x 2 pixels, an odd last row left out);
    contrast and structure at every scale, luminance at the coarsest; negative means count as 0;
    product a channel, then the mean over channels. Raises `ValueError` for sides under 176.
    """
    least = WINDOW * 2 ** (len(SCALES) - 1)
    if min(x.shape[1:3]) < least:
        raise ValueError(f"ms_ssim needs sides of at least {least} pixels, not {x.shape[1:3]}")
    x, y = (jnp.asarray(v, jnp.float32) for v in (x, y))
    total = jnp.ones((x.shape[0], x.shape[3]), jnp.float32)
    for i, weight in enumerate(SCALES):
        whole, contrast = _maps(x, y, data_range)
        last = i == len(SCALES) - 1
        mean = jnp.mean(whole if last else contrast, axis=(1, 2))
        total = total * jnp.maximum(mean, 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return jnp.mean(total, axis=1)


def _maps(x: Array, y: Array, data_range: float) -> tuple[Array, Array]:
    """Returns the maps of SSIM and of its contrast-structure part, [b, h - 10, w - 10, c]."""
    if x.shape != y.shape:
        raise ValueError(f"images of one shape are compared, not {x.shape} and {y.shape}")
    if min(x.shape[1:3]) < WINDOW:
        raise ValueError(f"ssim needs sides of at least {WINDOW} pixels, not {x.shape[1:3]}")
    # Covariances do not depend on a shift, and lose fewer digits around the middle of the range.
    middle = data_range / 2
    x, y = (jnp.asarray(v, jnp.float32) - middle for v in (x, y))
    mx, my = _blur(x), _blur(y)
    vx, vy = _blur(x * x) - mx * mx, _blur(y * y) - my * my
    vxy = _blur(x * y) - mx * my
    mx, my = mx + middle, my + middle
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    contrast = (2 * vxy + c2) / (vx + vy + c2)
    return (2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast, contrast


@functools.lru_cache(maxsize=16)
def _band(size: int) -> np.ndarray:
    """Returns the Gaussian window as a matrix [size - 10, size]."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    out = np.zeros((size - WINDOW + 1, size))
    for i in range(len(out)):
        out[i, i : i + WINDOW] = taps / taps.sum()
    return out.astype(np.float32)


def _blur(x: Array) -> Array:
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("oh,bhwc->bowc", jnp.asarray(_band(x.shape[1])), x, precision=highest)
    return jnp.einsum("pw,bowc->bopc", jnp.asarray(_band(x.shape[2])), x, precision=highest)


def _halved(x: Array) -> Array:
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
