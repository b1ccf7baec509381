"""PNDM, PLMS and iPNDM: Adams-Bashforth on eps, then DDIM (Liu et al., arXiv 2202.09778).

e' = sum_j w_j eps_{n-j} with the weights of equal steps goes into the transfer
x' = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) e', which is DDIM. As the steps are not equal
in the variable that is integrated, the order is 2 whatever the number of values.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree, bcast, namespace
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.solvers.base import Predict, Row, State, at
from genjax.solvers.dpm_multistep import check_order
from genjax.solvers.exponential import first_order
from genjax.solvers.multistep import Multistep, combine, push, value_of

_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
_STAGES = {"euler": ("_next",), "runge_kutta": ("_2", "_2", "_next")}  # where they lie
_SHARES = {"euler": (1 / 2, 1 / 2), "runge_kutta": (1 / 6, 2 / 6, 2 / 6, 1 / 6)}


@dataclasses.dataclass(frozen=True)
class AdamsBashforth(Multistep):
    """Base: `depth` values of eps; the first `starts` steps, never the last, are `starter`'s.

    A starter evaluates at further points of its own step, each reached from x by a transfer, and
    averages: "euler" at t_next, "runge_kutta" twice at the middle t_2 and at t_next. A row holds
    the weights "adams" [depth], "starter" (0 or 1), and what depends on t and t_next alone: a, b of
    the transfer x' = a x + b e', those to t_2, and p, q of the value at each point.
    """

    @property
    def kind(self) -> str:
        return "eps"

    @property
    def starter(self) -> str | None:
        """The starter's name, or None."""
        return None

    @property
    def starts(self) -> int:
        """How many steps the starter makes, if there are as many before the last."""
        return 0

    def weights(self, times, t_next):
        return {
            **self.coefficients(times[0], t_next),
            "adams": np.array(_padded(len(times), self.depth)),
        }

    def coefficients(self, t, t_next):
        row = self._transfer(t, t_next)
        if self.starter is not None:
            row |= {k + "_next": v for k, v in self._values(t_next).items()}
        if self.starter == "runge_kutta":
            t_2 = 0.5 * (t + t_next)
            row |= {"t_2": t_2, **{k + "_2": v for k, v in self._values(t_2).items()}}
            row |= {k + "_2": v for k, v in self._transfer(t, t_2).items() if k in ("a", "b")}
        return row

    def _transfer(self, t, t_next) -> dict[str, Any]:
        made = first_order(self.process, t, t_next, kind="eps", depth=1)
        return {"b": made.pop("c")[..., 0], **made}

    def _values(self, t) -> dict[str, Any]:
        """Returns p and q of eps at t (any finite numbers where sigma = 0, unless it is used)."""
        sigma = self.process.sigma(t)
        sigma = namespace(sigma).where(sigma > 0, sigma, 1.0)
        return {"p": 1 / sigma, "q": -self.process.alpha(t) / sigma}

    def finish(self, rows):
        grid = np.append(rows["t"], rows["t_next"][-1])
        order = self.orders(grid)
        n = order.size
        if self._started(n) and self.process.alpha(grid[0]) == 0:
            raise UserError(
                f"sampler.solver: {type(self).__name__} cannot start at t = {grid[0]:g}, where"
                " alpha = 0 and eps says nothing of the data; start the grid later, or take ipndm"
            )
        rows = {**rows, "order": order, "adams": np.array([_padded(k, self.depth) for k in order])}
        if self.starter is None:
            return rows
        return {**rows, "starter": np.where(np.arange(n) < self._started(n), 1.0, 0.0)}

    def own(self, row: Row, times: Sequence[Array], t_next: Array) -> dict[str, Any]:
        return {**row, **self.row(times[0], t_next)}

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        x = state.x
        out, memory = predict(x, row, state.memory)
        history = push(state.history, self.value(row, x, out.x0))

        def adams(memory):
            return combine(row["adams"], history), memory

        def start(memory):
            return self._start(predict, x, history[0], row, memory)

        if self.starter is None:
            e, memory = adams(memory)
        else:
            e, memory = jax.lax.cond(row["starter"] > 0, start, adams, memory)
        return State(bcast(row["a"], x) * x + bcast(row["b"], x) * e, memory, history)

    def _start(self, predict: Predict, x: Array, e: Array, row: Row, memory: Tree):
        """Returns the starter's e' and memory; `e` is the value at x."""
        names = _STAGES[self.starter or ""]
        shares = _SHARES[self.starter or ""]
        rows = [self._stage(row, name) for name in names]
        # One loop: the network stands once in the compiled program.
        stages = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

        def stage(carry, item):
            last, total, memory = carry
            row, share = item
            moved = bcast(row["a"], x) * x + bcast(row["b"], x) * last
            out, memory = predict(moved, row, memory)
            last = value_of(row, moved, out.x0)
            return (last, total + share * last, memory), None

        carry = (e, shares[0] * e, memory)
        shares = jnp.asarray(shares[1:], x.dtype)
        (_, total, memory), _ = jax.lax.scan(stage, carry, (stages, shares))
        return total, memory

    def _stage(self, row: Row, name: str) -> dict[str, Any]:
        """Returns the row of a stage: transfer from t to its time, and its value's p and q."""
        moved = {k: row[k + name] for k in "pq"}
        if name == "_2":
            moved |= {k: row[k + name] for k in "ab"}
        return {**at(row, name), **moved}

    def _started(self, n: int) -> int:
        return min(self.starts, n - 1)

    def nfe(self, n: int) -> int:
        return n + len(_STAGES.get(self.starter or "", ())) * self._started(n)


def _padded(order: int, depth: int) -> list[float]:
    """Returns the weights of `order` values and zeros behind them."""
    return [*_ADAMS[order - 1], *[0.0] * (depth - order)]


@dataclasses.dataclass(frozen=True)
class PNDM(AdamsBashforth):
    """S-PNDM (two values, one Euler starter) or F-PNDM (four, three Runge-Kutta starters).

    NFE n + 1 and n + 9, less where there are fewer steps than starters. Cannot start at alpha = 0.
    """

    form: str = option("f", '"f": fourth-order weights; "s": second-order weights')

    def __post_init__(self):
        if self.form not in ("s", "f"):
            raise ValueError(f'form must be "s" or "f", got {self.form!r}')

    @property
    def depth(self) -> int:
        return 4 if self.form == "f" else 2

    @property
    def starter(self) -> str | None:
        return "runge_kutta" if self.form == "f" else "euler"

    @property
    def starts(self) -> int:
        return 3 if self.form == "f" else 1


@dataclasses.dataclass(frozen=True)
class PLMS(AdamsBashforth):
    """PLMS of Stable Diffusion: one Euler starter, then two, three, four values. NFE n + 1.

    Cannot start at alpha = 0.
    """

    @property
    def depth(self) -> int:
        return 4

    @property
    def starter(self) -> str | None:
        return "euler"

    @property
    def starts(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True)
class IPNDM(AdamsBashforth):
    """iPNDM: one, two, ... `order` values, nothing else. NFE n."""

    order: int = option(4, "values of eps used, 1 to 4")

    def __post_init__(self):
        check_order(self.order, 4)

    @property
    def depth(self) -> int:
        return self.order
