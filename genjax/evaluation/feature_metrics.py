"""Metrics of features: sFID, FID-infinity, KID, CMMD, the Inception Score, and the manifold four.

Each works with the features of any network and names the network in its title.
"""

import dataclasses

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.evaluation import kernel, manifold
from genjax.evaluation.frechet import frechet, frechet_infinity
from genjax.evaluation.inception_score import inception_score
from genjax.evaluation.metrics import Evidence, Frechet, Value, given, title

_ON_COMMAND_LINE = "feature network (empty: the one given by --extractor)"
BOTH = frozenset({"features"})


@dataclasses.dataclass(frozen=True)
class FrechetDino(Frechet):
    """FD-DINOv2: the Frechet distance of DINOv2's class tokens (Stein et al. 2023)."""

    extractor: str = option("dinov2:l", "feature network: dinov2:SIZE, with the paper's l")


@dataclasses.dataclass(frozen=True)
class Reconstruction(Frechet):
    """rFID: between images and their reconstructions. The reference is those same images."""

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the distance; it warns where the two sets are not of one size."""
        value = super().__call__(samples, reference, network, seed)
        warnings = value.warnings
        if reference.n is not None and samples.n != reference.n:
            warnings += (
                f"{samples.n} reconstructions against {reference.n} images: rFID is of the same "
                "images, at the same crop",
            )
        return dataclasses.replace(value, title=f"r{value.title}", warnings=warnings)


@dataclasses.dataclass(frozen=True)
class Spatial:
    """sFID: the Frechet distance of 17 x 17 x 7 spatial features (Nash et al. 2021)."""

    extractor: str = option("", _ON_COMMAND_LINE)
    samples = frozenset({"spatial"})
    reference = frozenset({"spatial"})

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the distance; too few samples are said loudly."""
        a, b = given(samples.spatial), given(reference.spatial)
        warnings = ()
        if (samples.n or 0) <= a.dim:
            warnings = (f"TOO FEW SAMPLES: {samples.n} for {a.dim} dimensions",)
        return Value(
            frechet(a, b),
            title("sfid", network),
            f"{network.protocol}; Mixed_6d.branch1x1 after its ReLU, first 7 channels",
            {"dimensions": a.dim},
            warnings,
        )


@dataclasses.dataclass(frozen=True)
class Infinity:
    """The Frechet distance that infinitely many samples would have (Chong and Forsyth 2020)."""

    extractor: str = option("", _ON_COMMAND_LINE)
    points: int = option(15, "sample sizes between N/10 (at most 5000) and N")
    samples = BOTH
    reference = frozenset({"statistics"})

    def __post_init__(self):
        if self.points < 3:
            raise ValueError(f"points must be at least 3, not {self.points}")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the intercept of the line through d^2 against 1/N; details: R^2."""
        x = given(samples.features)
        if len(x) < 10 * self.points:
            raise UserError(
                f"fid_infinity: {len(x)} samples are too few for {self.points} sample sizes; draw "
                f"at least {10 * self.points}"
            )
        value, fit = frechet_infinity(x, given(reference.statistics), points=self.points, seed=seed)
        about = f"least squares against 1/N at {self.points} sizes"
        warnings = () if fit > 0.9 else (f"the line fits badly (R^2 = {fit:.2f})",)
        return Value(
            value,
            title("fid_infinity", network),
            f"{network.protocol}; {about}",
            {"r_squared": fit},
            warnings,
        )


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """KID: the unbiased cubic-kernel MMD^2 (Binkowski et al. 2018). Often quoted times 1000."""

    extractor: str = option("", _ON_COMMAND_LINE)
    subsets: int = option(100, "random subsets that are averaged")
    size: int = option(1000, "images of either side in a subset")
    rng_seed: int = option(2020, "seed of the subsets, torch-fidelity's by default")
    samples = BOTH
    reference = BOTH

    def __post_init__(self):
        if self.subsets < 1 or self.size < 2:
            raise ValueError("subsets must be at least 1 and size at least 2")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over subsets; details: their standard deviation."""
        x, y = given(samples.features), given(reference.features)
        size = min(self.size, len(x), len(y))
        mean, std = kernel.kid(x, y, subsets=self.subsets, size=size, seed=self.rng_seed)
        warnings = ()
        if size < self.size:
            warnings = (f"subsets of {size}, for there are no more images, not {self.size}",)
        return Value(
            mean,
            title("kid", network),
            f"{network.protocol}; (x y / d + 1)^3, unbiased; {self.subsets} subsets of {size}; "
            f"subset seed {self.rng_seed}",
            {"std_over_subsets": std},
            warnings,
        )


@dataclasses.dataclass(frozen=True)
class Cmmd:
    """CMMD: the Gaussian-kernel MMD^2 of CLIP's image embeddings (Jayasumana et al. 2024)."""

    extractor: str = option("clip:l14-336", "feature network: clip:SIZE, with the paper's l14-336")
    samples = BOTH
    reference = BOTH

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns 1000 MMD^2."""
        value = kernel.cmmd(given(samples.features), given(reference.features))
        about = "unit vectors, exp(-|x - y|^2 / 200), biased, times 1000"
        return Value(value, title("cmmd", network), f"{network.protocol}; {about}")


@dataclasses.dataclass(frozen=True)
class Inception:
    """The Inception Score (Salimans et al. 2016)."""

    extractor: str = option("", _ON_COMMAND_LINE)
    splits: int = option(10, "parts whose scores are averaged")
    shuffle: bool = option(True, "shuffle first, with torch-fidelity's seed 2020")
    samples = frozenset({"logits"})
    reference = frozenset()

    def __post_init__(self):
        if self.splits < 1:
            raise ValueError(f"splits must be at least 1, not {self.splits}")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over splits; details: their standard deviation."""
        mean, std = inception_score(given(samples.logits), splits=self.splits, shuffle=self.shuffle)
        order = "shuffled with seed 2020" if self.shuffle else "in order"
        about = f"{self.splits} splits, {order}"
        if network.name.startswith("inception"):
            about = f"logits without bias; {about}"
        return Value(
            mean, title("is", network), f"{network.protocol}; {about}", {"std_over_splits": std}
        )


@dataclasses.dataclass(frozen=True)
class _OfManifolds:
    """What the four metrics of nearest neighbours share."""

    extractor: str = option("", _ON_COMMAND_LINE)
    k: int = option(3, "a ball reaches to the k-th nearest neighbour of its own set")
    samples = BOTH
    reference = BOTH

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    def _sets(self, samples: Evidence, reference: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """Returns (real, fake) less the mean of the real features."""
        real, fake = manifold.centred(given(reference.features), given(samples.features))
        return real, fake

    def _real(self, reference: Evidence, real: np.ndarray) -> manifold.Manifold:
        return reference.recall(f"manifold {self.k}", lambda: manifold.manifold(real, self.k))

    def _value(self, name: str, value: float, network, about: str) -> Value:
        clauses = f"{network.protocol}; k = {self.k}; Euclidean, float32; {about}"
        return Value(value, title(name, network), clauses)


@dataclasses.dataclass(frozen=True)
class Precision(_OfManifolds):
    """The share of samples inside the manifold of real images (Kynkaanniemi et al. 2019)."""

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns a share in 0..1."""
        real, fake = self._sets(samples, reference)
        value = manifold.precision(self._real(reference, real), fake)
        return self._value("precision", value, network, "balls of real images, <=")


@dataclasses.dataclass(frozen=True)
class Recall(_OfManifolds):
    """The share of real images inside the manifold of samples (Kynkaanniemi et al. 2019)."""

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns a share in 0..1."""
        real, fake = self._sets(samples, reference)
        value = manifold.recall(manifold.manifold(fake, self.k), real)
        return self._value("recall", value, network, "balls of samples, <=")


@dataclasses.dataclass(frozen=True)
class Density(_OfManifolds):
    """How many real balls hold a sample, over k (Naeem et al. 2020); may exceed 1."""

    k: int = option(5, "a ball reaches to the k-th nearest neighbour of its own set")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean over samples."""
        real, fake = self._sets(samples, reference)
        value = manifold.density(self._real(reference, real), fake)
        return self._value("density", value, network, "balls of real images, <")


@dataclasses.dataclass(frozen=True)
class Coverage(_OfManifolds):
    """The share of real balls that hold a sample (Naeem et al. 2020)."""

    k: int = option(5, "a ball reaches to the k-th nearest neighbour of its own set")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns a share in 0..1."""
        real, fake = self._sets(samples, reference)
        value = manifold.coverage(self._real(reference, real), fake)
        return self._value("coverage", value, network, "balls of real images, <")
