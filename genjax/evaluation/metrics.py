"""What is measured. A metric declares what it needs; the runner gathers it and calls the metric."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.evaluation.extractors import Extractor
from genjax.evaluation.frechet import expected_bias, frechet
from genjax.evaluation.images import ImageSet
from genjax.evaluation.neighbours import nearest
from genjax.evaluation.statistics import Statistics

# What the Frechet distance is called with the features of a network; "frechet" with any other.
FRECHET_NAMES = {"inception": "fid", "dinov2": "fd", "clip": "fd"}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is known of one set of images; what no metric needs is None.

    `features` [n, d] and `logits` [n, K] are float32 on the host, `codes` [n, l] int32; `spatial`
    are the statistics of the network's spatial features. `memory` keeps what metrics compute of
    this set alone, for the next set that is compared with it.
    """

    name: str
    n: int | None
    images: ImageSet | None = None
    statistics: Statistics | None = None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    spatial: Statistics | None = None
    codes: np.ndarray | None = None
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)

    def recall(self, key: str, make: Callable[[], Any]) -> Any:
        """Returns what `make()` gave the first time."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]


@dataclasses.dataclass(frozen=True)
class Value:
    """A measured number. `title` is the honest name, `protocol` clauses joined by "; ".

    `warnings` are said loudly wherever the number is; `n` is the number of images that it is of,
    where these are not the samples; details["standard_error"], where known, is printed beside it.
    """

    value: float
    title: str
    protocol: str
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    n: int | None = None


class Metric(Protocol):
    """A frozen dataclass, registered in METRICS.

    `samples` and `reference` name what it reads of either side, out of "images", "labels",
    "captions", "statistics", "spatial", "features", "logits", "codes"; a metric of the reference
    alone reads no samples, and "pairs" in `reference` says that image i is compared with image i.
    `extractor` names the feature network ("": the one given on the command line; None: it needs
    none; "model": the evaluated model itself).
    """

    @property
    def samples(self) -> frozenset[str]: ...
    @property
    def reference(self) -> frozenset[str]: ...
    @property
    def extractor(self) -> str | None: ...

    def __call__(
        self, samples: Evidence, reference: Evidence, network: Extractor | None, seed: int
    ) -> Value: ...


@dataclasses.dataclass(frozen=True)
class Frechet:
    """The Frechet distance of the features' Gaussians: FID where the network is FID's."""

    extractor: str = option("", "feature network (empty: the one given by --extractor)")
    samples = frozenset({"statistics"})
    reference = frozenset({"statistics"})

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the distance with its first-order small-sample bias."""
        a, b = given(samples.statistics), given(reference.statistics)
        if a.dim != b.dim:
            raise UserError(
                f"{reference.name}: its statistics have {b.dim} dimensions, the extractor's "
                f"features {a.dim}; use statistics of the same feature network"
            )
        n = samples.n or 0
        value = frechet(a, b)
        # The larger set's covariance is the better known one.
        bias = expected_bias((b if (b.n or n) >= n else a).sigma, n, b.n)
        warnings = []
        if n <= a.dim:
            warnings.append(
                f"TOO FEW SAMPLES: {n} for {a.dim} dimensions, so the covariance is singular; "
                "compare only with numbers of the same N"
            )
        elif bias > 0.2 * value:
            warnings.append(
                f"FEW SAMPLES: two draws of one Gaussian would be {bias:.3g} apart at this N, and "
                f"{value:.3g} was measured; compare only with numbers of the same N"
            )
        return Value(
            value,
            title(FRECHET_NAMES.get(network.name.split("-")[0], "frechet"), network),
            f"{network.protocol}; covariance / (N - 1); float64 on the host",
            {"expected_bias": bias, "dimensions": a.dim},
            tuple(warnings),
        )


@dataclasses.dataclass(frozen=True)
class LabelAgreement:
    """The share of samples to which the classifier gives the label that was asked for."""

    extractor: str = option("", "feature network (empty: the one given by --extractor)")
    samples = frozenset({"labels", "logits"})
    reference = frozenset()

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns a share in 0..1, with that of every class."""
        logits = given(samples.logits)
        labels = given(given(samples.images).labels)
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise UserError(
                f"{samples.name}: labels from {labels.min()} to {labels.max()}, but the classifier "
                f"knows {logits.shape[1]} classes"
            )
        right = np.argmax(logits, axis=1) == labels
        classes = {str(c): float(right[labels == c].mean()) for c in np.unique(labels)}
        return Value(
            float(right.mean()),
            title("label_agreement", network),
            f"{network.protocol}; argmax of the logits = label",
            {"by_class": classes},
        )


@dataclasses.dataclass(frozen=True)
class Spread:
    """The samples' standard deviation per pixel, averaged over pixels, over that of real images.

    Below 1: blurred or collapsed; above 1: noisy.
    """

    extractor = None
    samples = frozenset({"images"})
    reference = frozenset({"images"})

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the ratio; the two deviations (pixels 0..1) are its details."""
        a = pixel_std(given(samples.images))
        b = reference.recall("pixel_std", lambda: pixel_std(given(reference.images)))
        if b == 0:
            raise UserError(f"{reference.name}: all its images are equal; the spread needs others")
        return Value(
            a / b,
            "spread",
            "mean over pixels of the standard deviation over images (pixels 0..1, divided by N)",
            {"samples": a, "reference": b},
        )


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Do samples copy? Median distance to the nearest real image, over that between real images.

    About 1 where samples lie among the data as other data do, near 0 where they are copies.
    """

    queries: int = option(2000, "at most so many images of either side look for their nearest")
    extractor = None
    samples = frozenset({"images"})
    reference = frozenset({"images"})

    def __post_init__(self):
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, not {self.queries}")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the ratio of medians of Euclidean distances (pixels 0..1)."""
        real = given(reference.images)
        if real.size < 2:
            raise UserError(f"{real.name}: one image has no nearest other; give more images")
        _, drawn = _subset(given(samples.images), self.queries, seed)
        distance, _ = nearest(drawn, real)
        between = reference.recall(
            f"nearest {self.queries} {seed}", lambda: self._between(real, seed)
        )
        ours, theirs = float(np.median(distance)), float(np.median(between))
        if theirs == 0:
            raise UserError(f"{real.name}: half of its images have an exact copy in it; clean it")
        return Value(
            ours / theirs,
            "nearest",
            f"median Euclidean distance of {len(distance)} samples to the nearest of {real.size} "
            f"reference images over that of {len(between)} reference images to the nearest other; "
            "raw pixels 0..1",
            {"samples": ours, "reference": theirs, "copies": float(np.mean(distance == 0))},
        )

    def _between(self, real: ImageSet, seed: int) -> np.ndarray:
        """Returns the distances of reference images to their nearest other."""
        own, queries = _subset(real, self.queries, seed)
        return nearest(queries, real, own)[0]


def pixel_std(images: ImageSet) -> float:
    """Returns the mean over pixels (0..1) of the standard deviation over images, streamed."""
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    for _, block in images.blocks(512):
        x = block.astype(np.int64)  # integer sums are exact
        total, squares = total + x.sum(axis=0), squares + (x * x).sum(axis=0)
    mean = np.asarray(total) / images.size
    variance = np.asarray(squares) / images.size - mean**2
    return float(np.mean(np.sqrt(np.maximum(variance, 0.0))) / 255.0)


def _subset(images: ImageSet, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices, images) of at most `most` images, drawn without replacement."""
    index = np.arange(images.size)
    if images.size > most:
        index = np.sort(np.random.default_rng(seed).choice(images.size, most, replace=False))
    return index, images.read(index)


def given(what):
    """The runner has gathered what the metric declared; this says so to the type checker."""
    assert what is not None
    return what


def title(metric: str, network: Any) -> str:
    """Returns the honest name of a metric: with the network and its hash."""
    return f"{metric}[{network.name}-{network.hash[:8]}]"
