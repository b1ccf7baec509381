"""UniPC: a predictor and a corrector that share one evaluation (Zhao et al., arXiv 2302.04867)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree, bcast, namespace
from genjax.core.registry import option
from genjax.solvers.base import Predict, Row, State
from genjax.solvers.dpm_multistep import check_order
from genjax.solvers.exponential import exact, integrate
from genjax.solvers.multistep import (
    Multistep,
    blank,
    combine,
    falling,
    interpolatory,
    push,
    stacked,
)


@dataclasses.dataclass(frozen=True)
class UniPC(Multistep):
    """UniP of `order` p, corrected by UniC of the same number of past values: order p + 1. NFE n.

    The model is evaluated at the predicted x alone; that value corrects the x it was predicted
    from, and stays in the history. So the correction of a step is part of the next row, and the
    last step has none. At two values the predictor's slope is B/2, and so is the corrector's at
    one (B = h: bh1, B = e^h - 1: bh2); else both integrate their polynomials exactly.
    """

    order: int = option(2, "order of the predictor, 1 to 3")
    B: str = option("bh2", 'B(h): "bh1" (h) or "bh2" (e^h - 1)')
    data_prediction: bool = option(True, "integrate the data estimate (false: the noise estimate)")
    corrector: bool = option(True, "correct every step but the last (false: UniP)")
    lower_order_final: bool = option(True, "order 3, 2, 1 over the last steps, as published")

    def __post_init__(self):
        check_order(self.order, 3)
        if self.B not in ("bh1", "bh2"):
            raise ValueError(f'B must be "bh1" or "bh2", got {self.B!r}')

    @property
    def kind(self) -> str:
        return "x0" if self.data_prediction else "eps"

    @property
    def depth(self) -> int:
        return self.order

    def moments(self, z, count: int) -> list[Any]:
        """Returns what the method's integral makes of 1, r, ...; two of them are half B's."""
        out = exact(z, count)
        if count == 2:
            out[1] = 0.5 + 0 * z if self.B == "bh1" else out[0] / 2
        return out

    def weights(self, times, t_next):
        return integrate(
            self.process, times, t_next, kind=self.kind, depth=self.depth, moments=self.moments
        )

    def orders(self, grid: np.ndarray) -> np.ndarray:
        order = super().orders(grid)
        order[self.process.sigma(grid[1:]) == 0] = 1
        return falling(order) if self.lower_order_final else order

    def correction(self, times, t_next) -> dict[str, Any]:
        """Returns "a_c", "c_c" [..., depth + 1] of the corrected step times[0] -> t_next.

        c_c[0] belongs to the value at t_next, the others to those at `times`.
        """
        process, xp = self.process, namespace(*times, t_next)
        lam = process.lam(times[0])
        h = xp.log(lam / process.lam(t_next))
        nodes = [1.0, 0.0, *(xp.log(lam / process.lam(t)) / h for t in times[1:])]
        z = h if self.kind == "eps" else -h
        weights = interpolatory(nodes, self.moments(z, len(nodes)))
        if self.kind == "eps":
            scale, ends = (
                -process.sigma(t_next) * h,
                (process.alpha(t_next), process.alpha(times[0])),
            )
        else:
            scale, ends = (
                process.alpha(t_next) * h,
                (process.sigma(t_next), process.sigma(times[0])),
            )
        c = stacked([scale * w for w in weights], self.depth + 1, h)
        return {"a_c": ends[0] / ends[1], "c_c": c}

    def finish(self, rows):
        rows = super().finish(rows)
        if not self.corrector:
            return rows
        grid, order = np.append(rows["t"], rows["t_next"][-1]), rows["order"]
        n = order.size
        moves = (self.process.alpha(grid[:-1]) > 0) & (grid[:-1] > grid[1:])
        rows |= {"a_c": np.ones(n), "c_c": np.zeros((n, self.depth + 1)), "correct": np.zeros(n)}
        for k in range(1, self.depth + 1):
            i = np.flatnonzero((order == k) & moves)
            i = i[i < n - 1]
            times = [grid[i - j] for j in range(k)]
            for name, value in self.correction(times, grid[i + 1]).items():
                rows[name][i + 1] = value  # made when the value at the step's end is known
            rows["correct"][i + 1] = 1.0
        return rows

    def init(self, x: Array, memory: Tree) -> State:
        if not self.corrector:
            return super().init(x, memory)
        return State(x, memory, (blank(x, self.depth + 1), x))

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        if not self.corrector:
            return super().step(predict, state, row, keys)
        x, (history, start) = state.x, state.history
        out, memory = predict(x, row, state.memory)
        history = push(history, self.value(row, x, out.x0))
        corrected = bcast(row["a_c"], x) * start + combine(row["c_c"], history)
        x = jnp.where(bcast(row["correct"], x) > 0, corrected, x)
        moved = bcast(row["a"], x) * x + combine(row["c"], history)
        return State(moved, memory, (history, x))
