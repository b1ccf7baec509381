"""Predictors of Score SDE (Song et al., arXiv 2011.13456): one step of reverse diffusion each.

A predictor reverses one forward step t_next -> t, x_t = r x_next + sqrt(variance) z, whose numbers
a *discretisation* gives: "consistent", the process's exact transition between the two times of the
grid, or "legacy", what the published code computes from the step's index. All are affine in the
score, so a row of coefficients made in float64 holds everything.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np

from genjax.core.arrays import namespace
from genjax.core.errors import UserError
from genjax.core.registry import Registry
from genjax.process.gaussian import VE, VP, Process, SubVP
from genjax.process.table import Table
from genjax.solvers.base import clip_positive


class Forward(NamedTuple):
    """One forward step t_next -> t (or an array of them), to be reversed."""

    t: Any
    h: Any  # its length in t, > 0
    r: Any  # factor of x
    variance: Any  # of the noise that it adds
    lower: Any  # sigma(t_next)/sigma(t); None where no predictor asks for it
    kept: Any  # 1 - beta, the share of the signal's power that it keeps: the correctors' alpha


class Update(NamedTuple):
    """What a predictor does: mean = m x + u score, x' = mean + s z."""

    m: Any
    u: Any
    s: Any


def consistent(process: Process, t, t_next) -> Forward:
    """Returns the exact forward steps: r = alpha/alpha', variance = sigma^2 - r^2 sigma'^2.

    That is sigma^2 - sigma'^2 for VE and 1 - (alpha/alpha')^2 for VP. A last step to t = 0 ends
    without noise, for VE too, whose formula leaves sigma_min there: the paper's sigma(0) = 0, with
    a jump. Where the network sees t = 0 itself (SMLD's lowest level), the jump is the step after.
    """
    xp = namespace(t, t_next)
    ends = t_next <= 0
    if xp is np and np.any(t <= 0):
        ends = t <= 0
    sigma, sigma_next = process.sigma(t), xp.where(ends, 0.0, process.sigma(t_next))
    r = process.alpha(t) / process.alpha(t_next)
    variance = clip_positive(sigma**2 - (r * sigma_next) ** 2)
    return Forward(t, t - t_next, r, variance, sigma_next / sigma, r**2)


def legacy(process: Process, t, t_next) -> Forward:
    """Returns the forward steps of the published code, for the grid linspace(1, eps, N).

    Step k = 0..N-1 has length 1/N, whatever the grid's spacing, and index i = N - 1 - k of a table
    of N levels: sigma_i = sigma_min (sigma_max/sigma_min)^(i/(N-1)) with nothing below sigma_0 (VE)
    or beta_i = linspace(beta_min/N, beta_max/N, N) (VP). Sub-VP has no table: an Euler step of the
    SDE; its alpha in correctors, 1 - beta(t)/N, is ours (the code crashes). A `Table` is its own,
    with all of its entries as steps. Raises `UserError` for other processes, other grids and times
    that are chosen image by image.
    """
    if namespace(t, t_next) is not np or np.ndim(t) != 1:
        raise UserError(
            'sampler.solver.discretisation: "legacy" counts the steps of one grid; images with'
            ' times of their own need "consistent"'
        )
    if not _published(process, t):
        raise UserError(
            'sampler.solver.discretisation: "legacy" is the published code\'s, whose grid is'
            ' {"name": "score_sde"} (on a table with one step for each of its entries); take that'
            ' grid, or "consistent" for any'
        )
    n, ones = t.size, np.ones_like(t)
    h, i = 1 / n, np.arange(n - 1, -1, -1)
    if isinstance(process, VE):
        levels = process.sigma(i / max(n - 1, 1))
        below = np.append(levels[1:], 0.0)
        return Forward(t, h, ones, levels**2 - below**2, below / levels, ones)
    if isinstance(process, SubVP):
        euler = 1 + h * process.drift(t)
        return Forward(t, h, euler, h * process.diffusion2(t), None, 1 - h * process.beta(t))
    if isinstance(process, VP):
        beta = np.linspace(process.beta_min / n, process.beta_max / n, n)[i]
        return Forward(t, h, np.sqrt(1 - beta), beta, None, 1 - beta)
    if isinstance(process, Table):
        beta = process.beta_values()[::-1]
        return Forward(t, ones, np.sqrt(1 - beta), beta, None, 1 - beta)
    raise UserError(
        'sampler.solver.discretisation: the published code ("legacy") knows the processes ve, vp,'
        f' subvp and table, not {type(process).__name__}; choose "consistent"'
    )


def _published(process: Process, t: np.ndarray) -> bool:
    """Whether a grid's times are the published ones: evenly spaced, or a table's entries."""
    if isinstance(process, Table) and t.size != process.n:
        return False
    ends = (process.n, 1) if isinstance(process, Table) else (t[0], t[-1])
    return np.allclose(t, np.linspace(*ends, t.size), rtol=0, atol=1e-9)


DISCRETISATIONS = {"consistent": consistent, "legacy": legacy}


class Predictor(Protocol):
    """A rule that reverses a forward step."""

    def update(self, process: Process, step: Forward) -> Update: ...


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """Euler-Maruyama on the reverse SDE: mean = x - (f x - g^2 score) h, std g sqrt(h)."""

    def update(self, process: Process, step: Forward) -> Update:
        g2 = process.diffusion2(step.t) * step.h
        return Update(1 - process.drift(step.t) * step.h, g2, namespace(g2).sqrt(g2))


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion:
    """mean = (2 - r) x + variance score, std sqrt(variance): the forward step's own numbers."""

    def update(self, process: Process, step: Forward) -> Update:
        return Update(2 - step.r, step.variance, namespace(step.variance).sqrt(step.variance))


@dataclasses.dataclass(frozen=True)
class Ancestral:
    """mean = (x + variance score)/r: SMLD's and DDPM's ancestral sampling.

    The noise is the papers': for VE the posterior's given x0, sqrt(variance) sigma'/sigma, none at
    the end; for VP sqrt(beta). Raises `UserError` for processes that are neither, such as sub-VP.
    """

    def update(self, process: Process, step: Forward) -> Update:
        std = namespace(step.variance).sqrt(step.variance)
        middle = 0.5 * process.t_max
        alpha, sigma = process.alpha(middle), process.sigma(middle)
        if alpha == 1:
            std = std * step.lower
        elif abs(alpha**2 + sigma**2 - 1) > 1e-9:
            raise UserError(
                "sampler.solver.predictor: ancestral sampling is defined for variance-exploding"
                f" and variance-preserving processes, not for {type(process).__name__}; choose"
                " reverse_diffusion or euler_maruyama"
            )
        return Update(1 / step.r, step.variance / step.r, std)


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """Reverse diffusion with half the score and no noise, a first-order step of the ODE.

    Its last step removes half of the remaining noise only, as published; the solvers `ddim`,
    `euler` and `heun` follow the same ODE to its end.
    """

    def update(self, process: Process, step: Forward) -> Update:
        return Update(2 - step.r, step.variance / 2, 0 * step.variance)


@dataclasses.dataclass(frozen=True)
class NoPredictor:
    """Changes nothing and evaluates nothing: correctors alone follow the grid."""

    def update(self, process: Process, step: Forward) -> Update:
        one = namespace(step.variance).ones_like(step.variance)
        return Update(one, 0 * one, 0 * one)


PREDICTORS = Registry(
    "predictor",
    {
        "euler_maruyama": EulerMaruyama,
        "reverse_diffusion": ReverseDiffusion,
        "ancestral": Ancestral,
        "probability_flow": ProbabilityFlow,
        "none": NoPredictor,
    },
)
