"""Metrics of pairs: image i against reference image i, or against its own caption."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.evaluation import pairs
from genjax.evaluation.metrics import Evidence, Value, given, title

PAIRED = frozenset({"images", "pairs"})
# Named scales of the CLIP score: factor of the cosine, whether negative cosines count as 0.
CLIP_SCALES = {"torchmetrics": (100.0, True), "clipscore": (2.5, True), "cosine": (1.0, False)}


def _mean(
    samples: Evidence,
    reference: Evidence,
    distance: Callable[..., Any],
    rows: int = 64,
) -> tuple[float, dict]:
    """Returns the mean over pairs and its standard error."""
    x, y = given(samples.images), given(reference.images)
    parts = []
    try:
        for start in range(0, x.size, rows):
            at = np.arange(start, min(start + rows, x.size))
            parts.append(np.asarray(distance(x.read(at), y.read(at)), np.float64))
    except ValueError as error:
        raise UserError(f"{x.name}: {error}") from error
    values = np.concatenate(parts)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise UserError(f"{x.name}: the distance of pair {wrong[0]} is not finite")
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), {"standard_error": error}


@dataclasses.dataclass(frozen=True)
class Psnr:
    """The peak signal-to-noise ratio in dB."""

    extractor = None
    samples = frozenset({"images"})
    reference = PAIRED

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over pairs."""
        value, details = _mean(samples, reference, pairs.psnr)
        about = "10 log10(255^2 / MSE) a pair, at most 100 dB, then the mean"
        return Value(value, "psnr", about, details)


@dataclasses.dataclass(frozen=True)
class Ssim:
    """The structural similarity (Wang et al. 2004)."""

    extractor = None
    samples = frozenset({"images"})
    reference = PAIRED

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over pairs."""
        value, details = _mean(samples, reference, pairs.ssim)
        about = "Gaussian 11x11 sigma 1.5, K 0.01 0.03, range 255, valid windows, channel mean"
        return Value(value, "ssim", about, details)


@dataclasses.dataclass(frozen=True)
class MsSsim:
    """The multi-scale structural similarity (Wang et al. 2003)."""

    extractor = None
    samples = frozenset({"images"})
    reference = PAIRED

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over pairs."""
        value, details = _mean(samples, reference, pairs.ms_ssim)
        about = "five scales by 2x2 means, Gaussian 11x11 sigma 1.5, range 255, channel mean"
        return Value(value, "ms_ssim", about, details)


@dataclasses.dataclass(frozen=True)
class Lpips:
    """The learned perceptual distance (Zhang et al. 2018). It depends on the resolution."""

    extractor: str = option("lpips:alex", "network: lpips:alex (reports), lpips:vgg or :squeeze")
    samples = frozenset({"images"})
    reference = PAIRED

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over pairs."""
        value, details = _mean(samples, reference, network.distance, rows=16)
        h, w = given(samples.images).shape[:2]
        return Value(value, title("lpips", network), f"{network.protocol}; {h}x{w}", details)


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """How well pictures fit their captions by CLIP's embeddings."""

    extractor: str = option("clip:l14", "network: clip:SIZE")
    scale: str = option("torchmetrics", f"named scale: {', '.join(CLIP_SCALES)}")
    prefix: str = option("", "put before every caption ('A photo depicts ' in CLIPScore's paper)")
    samples = frozenset({"features", "images", "captions"})
    reference = frozenset()

    def __post_init__(self):
        if self.scale not in CLIP_SCALES:
            raise ValueError(f"scale is {self.scale!r}; choose one of {', '.join(CLIP_SCALES)}")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over pairs."""
        captions = given(given(samples.images).captions)
        text = network.embed_text([self.prefix + caption for caption in captions])
        each = clip_scores(given(samples.features), text, self.scale)
        factor, positive = CLIP_SCALES[self.scale]
        about = f"{factor:g} max(cos, 0)" if positive else "cos"
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
        return Value(
            float(each.mean()),
            title(f"clip_score-{self.scale}", network),
            f"{network.protocol}; {about}; prefix {self.prefix!r}; text cut off at 77 tokens",
            {"standard_error": error},
        )


def clip_scores(images: np.ndarray, texts: np.ndarray, scale: str) -> np.ndarray:
    """Returns the score of every pair, float64 [n], of embeddings [n, e] of any length."""
    a, b = (np.asarray(v, np.float64) for v in (images, texts))
    cosine = np.sum(a * b, 1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    factor, positive = CLIP_SCALES[scale]
    return factor * (np.maximum(cosine, 0.0) if positive else cosine)
