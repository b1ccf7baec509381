"""Loss weights over time, applied to the network's own error |F - F*|^2.

Since |F - F*|^2 = |D - x0|^2 / c_out^2, a weight w of the data estimate's error is the weight
w c_out^2 of the network's own, whatever the network predicts.
"""

import abc
import dataclasses

import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import Registry, option
from genjax.process.gaussian import Process
from genjax.process.precond import PRECONDS, Precond

_TINY = 1e-9  # floor of sigma: the weight of a sample at sigma = 0 is infinite times an error of 0


def snr(process: Process, t: Array) -> Array:
    """Returns alpha^2/sigma^2, finite at sigma = 0."""
    return (process.alpha(t) / jnp.maximum(process.sigma(t), _TINY)) ** 2


def row(name: str, precond: Precond) -> Precond:
    """Returns the parametrisation `name`, the network's own where it is that kind or "F"."""
    if name == "F" or isinstance(precond, PRECONDS.entries[name]):
        return precond
    return PRECONDS.build({"name": name})


def conversion(process: Process, precond: Precond, target: Precond, t: Array) -> Array:
    """Returns the factor [b] from |F - F*|^2 to the same error in the parametrisation `target`."""
    if target is precond:
        return jnp.ones_like(t)  # also where c_out is 0 or infinite
    target.check(process)
    scale = jnp.abs(target.c_out(process, t))
    return (precond.c_out(process, t) / jnp.maximum(scale, _TINY)) ** 2


class Weighting(abc.ABC):
    """A weight over time; subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def weight(self, process: Process, precond: Precond, target: Precond, t: Array) -> Array:
        """Returns the weight [b] of |F - F*|^2; `target` matters to relative weights only."""


class OfData(Weighting):
    """A weight defined as that of |D - x0|^2, whatever is predicted or called the target."""

    @abc.abstractmethod
    def x0_weight(self, process: Process, t: Array) -> Array:
        """Returns the weight [b] of |D - x0|^2."""

    def weight(self, process, precond, target, t):
        return self.x0_weight(process, t) * precond.c_out(process, t) ** 2


@dataclasses.dataclass(frozen=True)
class Uniform(Weighting):
    """1 on the error of the target: the plain MSE of the noise, the data, v, ..."""

    def weight(self, process, precond, target, t):
        return conversion(process, precond, target, t)


@dataclasses.dataclass(frozen=True)
class SNR(OfData):
    """alpha^2/sigma^2: the plain MSE of the noise, also Score SDE's default weight."""

    def x0_weight(self, process, t):
        return snr(process, t)


@dataclasses.dataclass(frozen=True)
class TruncatedSNR(OfData):
    """max(alpha^2/sigma^2, 1) (progressive distillation)."""

    def x0_weight(self, process, t):
        return jnp.maximum(snr(process, t), 1)


@dataclasses.dataclass(frozen=True)
class MinSNR(OfData):
    """min(alpha^2/sigma^2, gamma) (Hang et al. 2023)."""

    gamma: float = option(5.0, "cap of the signal-to-noise ratio")

    def __post_init__(self):
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")

    def x0_weight(self, process, t):
        return jnp.minimum(snr(process, t), self.gamma)


@dataclasses.dataclass(frozen=True)
class EDMWeight(OfData):
    """(lam^2 + sd^2)/(lam sd)^2, lam = sigma/alpha (EDM): 1 on the error of EDM's own F."""

    sigma_data: float = option(0.5, "standard deviation of the data")

    def __post_init__(self):
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    def x0_weight(self, process, t):
        return snr(process, t) + 1 / self.sigma_data**2


@dataclasses.dataclass(frozen=True)
class Likelihood(OfData):
    """g^2 on the error of the score: the loss bounds the likelihood (Song et al. 2021)."""

    def x0_weight(self, process, t):
        sigma = jnp.maximum(process.sigma(t), _TINY)
        return process.diffusion2(t) * snr(process, t) / sigma**2


WEIGHTINGS = Registry(
    "weighting",
    {
        "uniform": Uniform,
        "snr": SNR,
        "truncated_snr": TruncatedSNR,
        "min_snr": MinSNR,
        "edm": EDMWeight,
        "likelihood": Likelihood,
    },
)
