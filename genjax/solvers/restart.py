"""Restart sampling: forward noise and backward ODE in turn (Xu et al., arXiv 2306.14878)."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np

from genjax.core.arrays import Array, bcast
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.solvers.base import Predict, Row, Solver, State, at, standard_normal
from genjax.solvers.euler import Heun, two_stages


@dataclasses.dataclass(frozen=True)
class Restart(Solver):
    """Heun's ODE steps in lam = sigma/alpha; past an interval of levels they go back, K times.

    An interval (lo, hi, steps, K): at the level lo, which the grid gets as one time more, noise
    takes x up to hi in one jump, x_hat = (alpha_hat/alpha) x + alpha_hat sqrt(hi^2 - lo^2) S_noise
    z, and `steps` Heun steps on Karras' levels bring it down again; K times. Levels are in units of
    the data range. With k intervals NFE 2 (n + k) - 1 + 2 sum K steps. It cannot start where
    alpha = 0.

    The rule is the paper's. From memory, not checked against the authors' code: that levels lie as
    Karras' do, that `steps` counts Heun steps, and the default interval, which is their range for
    CIFAR-10. (The authors take the grid's level nearest to lo for it.) Choose intervals for your
    data.
    """

    intervals: tuple[tuple[float, float, int, int], ...] = option(
        ((0.06, 0.3, 3, 2),), "(lo, hi, steps, K) each"
    )
    rho: float = option(7.0, "exponent of the levels inside an interval")
    S_noise: float = option(1.0, "factor on the noise")

    def __post_init__(self):
        for lo, hi, steps, repeats in self.intervals:
            if not 0 < lo < hi or steps < 1 or repeats < 1:
                raise ValueError(
                    "an interval is (lo, hi, steps, K) with 0 < lo < hi, steps >= 1 and K >= 1, got"
                    f" {(lo, hi, steps, repeats)}"
                )
        if self.rho <= 0 or self.S_noise <= 0:
            raise ValueError("rho and S_noise must be positive")

    def row(self, t, t_next) -> dict[str, Any]:
        """Returns Heun's rows of steps t -> t_next, without noise."""
        return self._row(t, t, t_next)

    def _row(self, t, t_hat, t_next) -> dict[str, Any]:
        process = self.process
        heun = Heun("lam").bind(process).coefficients(t_hat, t_next)
        added = (process.lam(t_hat) ** 2 - process.lam(t) ** 2) * (t_hat > t)
        alpha = process.alpha(t_hat)
        return {
            "t": t,
            "t_hat": t_hat,
            "t_next": t_next,
            "up": alpha / process.alpha(t),
            "s": self.S_noise * alpha * added**0.5,
            **heun,
        }

    def finish(self, rows):
        grid = np.append(rows["t"], rows["t_next"][-1])
        t, t_hat, t_next = ([] for _ in range(3))
        left = sorted(self.intervals, key=lambda interval: -interval[0])
        for start, end in pairwise(grid):
            t, t_hat, t_next = [*t, start], [*t_hat, start], [*t_next, end]
            while left and (place := self._time(left[0][0], grid[0])) > end:
                _, hi, steps, repeats = left.pop(0)
                levels = self._levels(place, self._time(hi, grid[0]), steps)
                t_next[-1] = place
                t += [place, *levels[1:-1]] * repeats + [place]
                t_hat += [*levels[:-1]] * repeats + [place]
                t_next += [*levels[1:]] * repeats + [end]
        if left:
            raise UserError(
                f"sampler.solver.intervals: the level {left[0][0]:g} lies below the grid's last"
            )
        rows = self._row(np.array(t), np.array(t_hat), np.array(t_next))
        second = rows["second"].copy()
        second[-1] = 0.0
        return {**rows, "second": second}

    def _time(self, level: float, start: float) -> float:
        """Returns the time of a noise level, which must lie below the grid's start."""
        t = float(self.process.t_of_lam(np.float64(level)))
        if t > start:
            raise UserError(
                f"sampler.solver.intervals: the level {level:g} lies above"
                f" {self.process.lam(start):.4g}, where the grid starts"
            )
        return t

    def _levels(self, low: float, high: float, steps: int) -> np.ndarray:
        """Returns the times [steps + 1] from `high` down to `low`, on Karras' levels."""
        top, bottom = (float(self.process.lam(np.float64(t))) for t in (high, low))
        roots = np.linspace(top ** (1 / self.rho), bottom ** (1 / self.rho), steps + 1)
        times = self.process.t_of_lam(roots**self.rho)
        times[0], times[-1] = high, low
        return times

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        x = state.x
        x = bcast(row["up"], x) * x + bcast(row["s"], x) * standard_normal(keys, x)
        x, memory = two_stages(predict, x, at(row, "_hat"), state.memory)
        return dataclasses.replace(state, x=x, memory=memory)

    def nfe(self, n: int) -> int:
        again = sum(steps * repeats for _, _, steps, repeats in self.intervals)
        return 2 * (n + len(self.intervals)) - 1 + 2 * again
