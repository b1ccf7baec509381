"""Bits per dimension: how well a model predicts real images. The one metric that asks the model."""

import dataclasses
from typing import Protocol

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.evaluation.metrics import Evidence, Value

MODEL = "model"  # what a metric's `extractor` says where it needs the evaluated model itself


class Density(Protocol):
    """A model that gives the bits of images; it stands among the extractors under MODEL.

    `hash` is of weights and architecture, `protocol` says how the bits are computed, `batch` how
    many images it takes at a time.
    """

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def batch(self) -> int: ...

    def __call__(self, images: np.ndarray, indices: np.ndarray, number: int) -> dict:
        """Returns {"bits": bits/dim, "nfe": evaluations, "ok": whether the solve ended}, each [n].

        `images`: uint8 0..255 [n, h, w, c], n <= batch; `indices` [n]: their places in the data,
        which with the `number` of the pass name the random numbers of each image.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """-log2 p(x) per dimension of the reference's images, averaged over all of them and passes."""

    passes: int = option(
        1, "passes over the images, each with dequantisation and probes of its own"
    )
    images: int | None = option(None, "at most so many images, drawn at random (None: all)")
    extractor = MODEL
    samples = frozenset()
    reference = frozenset({"images"})

    def __post_init__(self):
        if self.passes < 1:
            raise ValueError(f"passes must be at least 1, not {self.passes}")
        if self.images is not None and self.images < 1:
            raise ValueError(f"images must be at least 1, not {self.images}")

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the mean; the error is that of the mean over images, in its details."""
        real = reference.images
        assert real is not None
        chosen = np.arange(real.size)
        if self.images is not None and self.images < real.size:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(real.size, self.images, replace=False))
        bits = np.empty((self.passes, len(chosen)))
        nfe = np.empty((self.passes, len(chosen)))
        for number in range(self.passes):
            for start in range(0, len(chosen), network.batch):
                part = slice(start, start + network.batch)
                found = network(real.read(chosen[part]), chosen[part], number)
                _check(found, chosen[part], real.name)
                bits[number, part], nfe[number, part] = found["bits"], found["nfe"]
        each = bits.mean(axis=0)
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
        clauses = [
            network.protocol,
            f"{self.passes} pass{'es' if self.passes > 1 else ''}",
            f"NFE {nfe.mean():.1f} ({nfe.min():.0f} to {nfe.max():.0f})",
        ]
        if len(chosen) < real.size:
            clauses.append(f"{len(chosen)} images drawn at random")
        return Value(
            float(each.mean()),
            "bpd",
            "; ".join(clauses),
            {
                "standard_error": error,
                "passes": [float(v) for v in bits.mean(axis=1)],
                "nfe": float(nfe.mean()),
            },
            n=len(chosen),
        )


def _check(found: dict, indices: np.ndarray, name: str) -> None:
    lost = indices[~np.asarray(found["ok"])]
    if len(lost):
        raise UserError(
            f"bpd: the ODE of {len(lost)} images of {name} did not reach its end, the first is "
            f"number {lost[0]}; raise --tolerance"
        )
    wrong = indices[~np.isfinite(found["bits"])]
    if len(wrong):
        raise UserError(f"bpd: bits/dim of image {wrong[0]} of {name} are not finite")
