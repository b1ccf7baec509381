"""Single-step solvers with several evaluations a step: one template for all.

The network stands once in the compiled program, and stages that a step does not have are skipped.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array, bcast, namespace
from genjax.core.errors import UserError
from genjax.process.gaussian import Process
from genjax.solvers.base import Predict, Row, Solver, State, at, standard_normal
from genjax.solvers.multistep import blank, combine, push, value_of

SUFFIXES = ("", "_2", "_3")  # of the names of a row's stages


@dataclasses.dataclass(frozen=True)
class Stages(Solver):
    """Base: x_k = a_k x + sum_{j<=k} c_kj m_j + s_k z_k, m_j = D(x_{j-1}, t_j) or eps there.

    Stage j is evaluated at the time "t", "t_2", "t_3" of the row; x_0 = x, and the step's result is
    x_k for k = "order", which is 1 where the step ends at sigma = 0. A row holds "a", "s"
    [stages], "c" [stages, stages], and for eps "p", "q", "p_2", ... of m = p x + q D.
    NFE stages (n - 1) + 1, since the last step has order 1, or stages n.
    """

    @property
    def lower_order_final(self) -> bool:
        """Whether the last step has order 1, as a step to sigma = 0 needs."""
        return True

    @property
    def depth(self) -> int:
        """The most evaluations of one step."""
        raise NotImplementedError

    def stages(self, t, t_next, order: int) -> dict[str, Any]:
        """Returns "t_2", ... and the coefficients of steps of `order` evaluations."""
        raise NotImplementedError

    def coefficients(self, t, t_next):
        """Steps of all stages, but of order 1 where sigma(t_next) = 0."""
        full, first = (self.stages(t, t_next, order) for order in (self.depth, 1))
        xp = namespace(t, t_next)
        end = self.process.sigma(t_next) == 0
        row = {k: xp.where(bcast(end, v), first[k], v) for k, v in full.items()}
        return {**row, "order": xp.where(end, 1, self.depth)}

    def plan(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the times [k + 1] of the steps for `grid` [n + 1], and their evaluations [k]."""
        order = np.full(grid.size - 1, self.depth)
        if self.lower_order_final:
            order[-1:] = 1
        return grid, order

    def rows(self, grid: np.ndarray) -> dict[str, Any]:
        grid, order = self.plan(np.asarray(grid, np.float64))
        rows = {k: np.array(v) for k, v in super().rows(grid).items()}
        if np.any(order > rows["order"]):
            raise UserError(
                "sampler.solver.lower_order_final: the last step ends at sigma = 0, so its order"
                " must be 1; set it to true, or end the grid above 0"
            )
        for k in range(1, self.depth):
            i = np.flatnonzero(order == k)
            for name, value in self.stages(grid[i], grid[i + 1], k).items():
                rows[name][i] = value
        return {**rows, "order": order}

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        x = state.x
        points = [self._point(row, j) for j in range(self.depth)]
        points = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)

        def stage(carry, item):
            k, point = item
            used = row["order"] > k

            def evaluate(carry):
                moved, values, memory = carry
                out, memory = predict(moved, point, memory)
                m = value_of(point, moved, out.x0) if "p" in point else out.x0
                values = push(values, m)
                new = bcast(point["a"], x) * x + combine(point["c"], values)
                if "s" in point:
                    own = keys_lib.fold_each(keys, k)
                    new = new + bcast(point["s"], x) * standard_normal(own, x)
                return jnp.where(bcast(used, x), new, moved), values, memory

            return jax.lax.cond(jnp.any(used), evaluate, lambda carry: carry, carry), None

        stages = (jnp.arange(self.depth, dtype=jnp.uint32), points)
        carry = (x, blank(x, self.depth), state.memory)
        (x, _, memory), _ = jax.lax.scan(stage, carry, stages)
        return dataclasses.replace(state, x=x, memory=memory)

    def _point(self, row: Row, j: int) -> dict[str, Any]:
        """Returns the row of stage j: its time, a, s, p, q, and c [stages], newest value first."""
        own = {k: row[k + SUFFIXES[j]] for k in "pq" if k in row}
        c = row["c"][..., j, :]
        c = jnp.concatenate([c[..., j::-1], c[..., j + 1 :]], axis=-1)
        own |= {"a": row["a"][..., j], "c": c}
        if "s" in row:
            own["s"] = row["s"][..., j]
        return {**at(row, SUFFIXES[j]), **own} if j else {**row, **own}

    def nfe(self, n: int) -> int:
        return self.depth * (n - 1) + 1 if self.lower_order_final else self.depth * n


def inner_time(process: Process, t, t_next, ratio, r: float) -> Any:
    """Returns the time of lam ratio^r, a stage `r` of the way in log lam to lam ratio.

    From alpha = 0, where lam is infinite, it lies r of the way in alpha/sigma to t_next.
    """
    xp = namespace(t, t_next)
    alpha = process.alpha(t)
    lam = process.sigma(t) / xp.where(alpha > 0, alpha, 1.0)
    lam = xp.where(alpha > 0, lam * ratio**r, process.lam(t_next) / r)
    return process.t_of_lam(xp.where(lam > 0, lam, process.lam(0.5 * (t + t_next))))
