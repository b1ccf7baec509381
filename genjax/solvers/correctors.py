"""Correctors of Score SDE (Song et al., arXiv 2011.13456): Langevin steps at a fixed time.

mean = x + e score, x' = mean + sqrt(2 e) z; a corrector chooses the step size e. Its alpha is the
1 - beta of the step that the predictor reverses, as in the published code, with which the r below
were tuned (the paper's Algorithm 5 prints the cumulative product's symbol). For VE it is 1.

The published r (`snr`) on CIFAR-10, N = 1000 (the paper's Table 5; C2000 is the corrector alone,
two steps at each of 1000 times):

             ancestral  reverse_diffusion  probability_flow  none (C2000)
    VE            0.17               0.16              0.17          0.22
    VP            0.01               0.01              0.04          0.27

VE at other sizes: CelebA 64 0.17, the 256-pixel sets 0.075, 1024 pixels 0.15.
"""

import dataclasses
import math
from typing import Any, Protocol

import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import Registry, option
from genjax.solvers.base import Row

_SNR = "signal-to-noise ratio r of a step; the published values stand in the module"


class Corrector(Protocol):
    """A rule for the step size. `row["size"]` holds what `coefficient` returns."""

    def coefficient(self, alpha: Any) -> Any: ...

    def step_size(self, row: Row, z: Array, score: Array) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Langevin:
    """e = 2 alpha (r |z|/|score|)^2, norms over all axes but the batch.

    `norms="sample"` keeps images independent of each other. The published code's "batch" takes the
    mean of |z| and of |score| over the whole (sharded) batch: images then depend on what they are
    drawn with, and devices talk in every step.
    """

    snr: float = option(0.16, _SNR)
    norms: str = option("sample", '"sample": each image\'s own; "batch": means over the batch')
    expected: bool = option(False, "take sqrt(D) for |z|, the paper's rule for small batches")

    def __post_init__(self):
        _check(self.snr)
        if self.norms not in ("sample", "batch"):
            raise ValueError(f'norms must be "sample" or "batch", got {self.norms!r}')

    def coefficient(self, alpha):
        """Returns what multiplies (|z|/|score|)^2."""
        return 2 * alpha * self.snr**2

    def step_size(self, row: Row, z: Array, score: Array) -> Array:
        """Returns e, [b] or a scalar, for noise and score [b, ...]."""
        top = math.prod(z.shape[1:]) ** 0.5 if self.expected else _norm(z)
        bottom = _norm(score)
        if self.norms == "batch":
            top, bottom = jnp.mean(top), jnp.mean(bottom)
        return row["size"] * (top / bottom) ** 2


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin:
    """e = 2 alpha (r sigma(t))^2: SMLD's step size, used for no number of the paper."""

    snr: float = option(0.16, _SNR)

    def __post_init__(self):
        _check(self.snr)

    def coefficient(self, alpha):
        """Returns what multiplies sigma(t)^2."""
        return 2 * alpha * self.snr**2

    def step_size(self, row: Row, z: Array, score: Array) -> Array:
        """Returns e, shaped like the row's time."""
        return row["size"] * row["std"] ** 2


@dataclasses.dataclass(frozen=True)
class NoCorrector:
    """Changes nothing and evaluates nothing."""

    def coefficient(self, alpha):
        return 0 * alpha

    def step_size(self, row: Row, z: Array, score: Array) -> Array:
        return row["size"]


CORRECTORS = Registry(
    "corrector", {"none": NoCorrector, "langevin": Langevin, "ald": AnnealedLangevin}
)


def _check(snr: float) -> None:
    if snr <= 0:
        raise ValueError(f"snr must be positive, got {snr}")


def _norm(x: Array) -> Array:
    """Returns the Euclidean norm of each sample, [b, ...] -> [b]."""
    return jnp.sqrt(jnp.sum(x * x, axis=tuple(range(1, x.ndim))))
