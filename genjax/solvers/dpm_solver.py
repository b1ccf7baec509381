"""DPM-Solver 1, 2, 3 and DPM-Solver++ 2S, single-step, and the ancestral and SDE forms of the last.

Lu et al., arXiv 2206.00927 and 2211.01095. Inner stages lie in log lam, lam = sigma/alpha. A first
step from alpha = 0 has as many stages as any other, which lie in alpha/sigma.
"""

import dataclasses
from typing import Any

import numpy as np

from genjax.core.arrays import namespace
from genjax.core.registry import option
from genjax.process.gaussian import Process
from genjax.solvers.base import clip_positive, lam_ratio
from genjax.solvers.dpm_multistep import check_order
from genjax.solvers.exponential import first_order
from genjax.solvers.multistep import phi, stacked
from genjax.solvers.stages import SUFFIXES, Stages, inner_time

_SHARES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}  # where the inner stages lie


@dataclasses.dataclass(frozen=True)
class DPMSolver(Stages):
    """DPM-Solver, single-step, in the noise estimate eps.

    `budget="fast"`: the grid's n steps are the evaluations, NFE n. Runs of `order` of them become
    one step with inner stages of its own, and what is left at the end a step of lower order; for
    order 3 and n divisible by 3 the end is a 2 and a 1. "fixed": every step has `order`
    evaluations but the last, NFE order (n - 1) + 1; or order n without `lower_order_final`. A step
    to sigma = 0 has order 1: with "fast", a run of two at the end becomes two steps.
    """

    order: int = option(3, "1, 2 or 3")
    budget: str = option("fast", '"fast": n evaluations in all; "fixed": `order` for every step')
    lower_order_final: bool = option(
        True, "budget fixed: the last step has order 1, as a step to sigma = 0 needs"
    )

    def __post_init__(self):
        check_order(self.order, 3)
        if self.budget not in ("fast", "fixed"):
            raise ValueError(f'budget must be "fast" or "fixed", got {self.budget!r}')

    @property
    def depth(self) -> int:
        return self.order

    def stages(self, t, t_next, order: int) -> dict[str, Any]:
        return runge_kutta(self.process, t, t_next, order, self.depth)

    def plan(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.budget == "fixed" or grid.size < 2:
            return super().plan(grid)
        whole, rest = divmod(grid.size - 1, self.order)
        if self.order == 3 and rest == 0:
            runs = [3] * (whole - 1) + [2, 1]
        else:
            runs = [self.order] * whole + [rest] * (rest > 0)
        if self.process.sigma(grid[-1]) == 0:
            runs = runs[:-1] + [1] * runs[-1]
        return grid[np.cumsum([0, *runs])], np.array(runs)

    def nfe(self, n: int) -> int:
        return n if self.budget == "fast" else super().nfe(n)


def runge_kutta(process: Process, t, t_next, order: int, depth: int) -> dict[str, Any]:
    """Returns the stages of DPM-Solver of `order`, padded to `depth`, for steps t -> t_next.

    With e = eps(x), e_k = eps(x_k), z = h the step in log(alpha/sigma), r_k = k/order:
    x_k = (alpha_k/alpha) x - sigma_k (e^{r_k z} - 1) e, for k = 2 also
    - sigma_2 (r_2/r_1) ((e^{r_2 z} - 1)/(r_2 z) - 1)(e_1 - e); and the end, with t_next's alpha
    and sigma and r = 1, has (e^z - 1)(e_1 - e)/(2 r_1) or ((e^z - 1)/z - 1)(e_2 - e)/r_2. From
    alpha = 0: the same with D for eps and the integrals of 1 and r, x/sigma over alpha/sigma.
    """
    xp = namespace(t, t_next)
    first = first_order(process, t, t_next, kind="eps", depth=depth)
    zero = xp.zeros_like(first["a"])
    dead = process.alpha(t) == 0
    ratio = lam_ratio(process, t, t_next)
    ratio = xp.where(ratio > 0, ratio, 0.5)  # of no step that is taken
    shares = _SHARES[order]
    times = [t + zero, *(inner_time(process, t, t_next, ratio, r) for r in shares)]

    def integrals(r: float) -> tuple[Any, Any]:
        """Returns z phi_1(r z) r and z phi_2(r z) r with the sign of eps' or D's coefficient."""
        z = -r * xp.log(ratio)
        one, two = phi(z, 2)
        return xp.where(dead, 1.0, -z * one), xp.where(dead, 0.5, -z * two)

    def stage(time, r: float, slope_at: int, slope) -> tuple[Any, Any]:
        """Returns a and c of the stage at `time`; slope multiplies the difference of two values."""
        alpha, sigma = process.alpha(time), process.sigma(time)
        factor = xp.where(dead, alpha, sigma)
        a = xp.where(dead, sigma / process.sigma(t), alpha / xp.where(dead, 1, process.alpha(t)))
        c = [zero] * depth
        c[0] = factor * (integrals(r)[0] - slope)
        if slope_at:
            c[slope_at] = factor * slope
        return a, xp.stack(c, axis=-1)

    made = []
    if order == 1:
        made.append((first["a"], first["c"]))
    else:
        made.append(stage(times[1], shares[0], 0, zero))
    if order == 2:
        made.append(stage(t_next, 1.0, 1, integrals(1.0)[0] / (2 * shares[0])))
    if order == 3:
        r1, r2 = shares
        made.append(stage(times[2], r2, 1, integrals(r2)[1] * r2 / r1))
        made.append(stage(t_next, 1.0, 2, integrals(1.0)[1] / r2))
    made += [(zero, stacked([], depth, zero))] * (depth - order)
    row = {
        "a": xp.stack([a for a, _ in made], axis=-1),
        "c": xp.stack([c for _, c in made], axis=-2),
    }
    for k, suffix in enumerate(SUFFIXES[:depth]):
        time = times[k] if k < order else times[0]
        alpha, sigma = process.alpha(time), process.sigma(time)
        row["p" + suffix] = xp.where(dead, 0.0, 1 / sigma)
        row["q" + suffix] = xp.where(dead, 1.0, -alpha / sigma)
        if k:
            row["t" + suffix] = time
    return row


@dataclasses.dataclass(frozen=True)
class DPMpp2S(Stages):
    """DPM-Solver++ 2S in the data estimate D; eta > 0: its ancestral form.

    The step goes to a lower lam_down, with its inner stage at the share `r` of the way, and noise
    lam_up brings it back to lam' = sqrt(lam_down^2 + lam_up^2),
    lam_up = eta lam' sqrt(1 - (lam'/lam)^2). NFE 2 n - 1, or 2 n without `lower_order_final`.
    """

    r: float = option(0.5, "where the inner stage lies, a share of the step in log lam")
    eta: float = option(0.0, "share of the ancestral noise, 0 to 1 (1: 2S ancestral)")
    lower_order_final: bool = option(
        True, "the last step has order 1, as a step to sigma = 0 needs"
    )

    def __post_init__(self):
        if not 0 < self.r <= 1:
            raise ValueError(f"r must lie in (0, 1], got {self.r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def depth(self) -> int:
        return 2

    def stages(self, t, t_next, order: int) -> dict[str, Any]:
        process, xp = self.process, namespace(t, t_next)
        ratio = lam_ratio(process, t, t_next)
        kept, down = split(ratio, self.eta)
        t_2 = inner_time(process, t, t_next, xp.where(down > 0, down, 0.5), self.r)
        a = [process.sigma(t_2) / process.sigma(t), kept * process.sigma(t_next) / process.sigma(t)]
        inner = process.alpha(t_2) - a[0] * process.alpha(t)
        s = None
        if self.eta > 0:
            s = [0 * ratio, process.sigma(t_next) * xp.sqrt(clip_positive(1 - kept**2))]
        return self._row(t, t_2, order, a, inner, process.alpha(t_next) * (1 - down), s)

    def _row(self, t, t_2, order: int, a: list, inner, total, s: list | None) -> dict[str, Any]:
        """`inner`, `total`: sums of the coefficients of D in the inner stage and in the step."""
        xp = namespace(t, t_2)
        zero = 0 * total
        row = {"t_2": t_2}
        second = total / (2 * self.r)
        c = [[inner, zero], [total - second, second]]
        if order == 1:
            row = {"t_2": t + zero}
            a, c = [a[1], zero], [[total, zero], [zero, zero]]
            s = None if s is None else [s[1], zero]
        c = xp.stack([xp.stack(v, axis=-1) for v in c], axis=-2)
        row |= {"a": xp.stack(a, axis=-1), "c": c}
        return row if s is None else row | {"s": xp.stack(s, axis=-1)}


@dataclasses.dataclass(frozen=True)
class DPMpp2SAncestral(DPMpp2S):
    """`DPMpp2S` with eta = 1 unless told otherwise: k-diffusion's DPM++ 2S ancestral."""

    eta: float = option(1.0, "share of the ancestral noise, 0 to 1 (0: deterministic)")


@dataclasses.dataclass(frozen=True)
class DPMppSDE(DPMpp2S):
    """SDE-DPM-Solver++ 2S: ancestral noise at the inner stage too (k-diffusion's DPM++ SDE)."""

    eta: float = option(1.0, "share of the ancestral noise, 0 to 1 (0: deterministic)")

    def stages(self, t, t_next, order: int) -> dict[str, Any]:
        process, xp = self.process, namespace(t, t_next)
        ratio = lam_ratio(process, t, t_next)
        t_2 = inner_time(process, t, t_next, xp.where(ratio > 0, ratio, 0.5), self.r)
        a, total, s = [], [], []
        for end in (t_2, t_next):
            kept, down = split(lam_ratio(process, t, end), self.eta)
            a.append(kept * process.sigma(end) / process.sigma(t))
            total.append(process.alpha(end) * (1 - down))
            s.append(process.sigma(end) * xp.sqrt(clip_positive(1 - kept**2)))
        return self._row(t, t_2, order, a, total[0], total[1], s)


def split(ratio, eta: float) -> tuple[Any, Any]:
    """Returns (lam_down/lam', lam_down/lam) of ancestral steps with lam'/lam = `ratio`."""
    xp = namespace(ratio)
    kept = xp.sqrt(clip_positive(1 - eta**2 * (1 - ratio**2)))
    return kept, ratio * kept
