"""Multistep solvers, x' = a x + sum_j c_j m_{n-j}, and their one scan body.

m is the data estimate D ("x0") or the noise estimate (x - alpha D)/sigma ("eps"), newest first. A
solver defines `weights`, which turns the times of its values into a and c, in float64 on the host
for the rows of a grid and in the graph for images with times of their own. Most integrate the
polynomial through the last values, times a known factor: `interpolatory` does that once for all.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree, bcast, namespace
from genjax.solvers.base import (
    Predict,
    Row,
    Solver,
    State,
    displaced,
    standard_normal,
    stepped,
)

_TERMS = 18  # of the series of phi below |z| = 1: the next is 1e-17


@dataclasses.dataclass(frozen=True)
class Multistep(Solver):
    """Base of the multistep solvers: subclasses give `depth`, `kind` and `weights`. NFE n.

    A row holds "a", "c" [depth], and for kind "eps" "p" and "q" of m = p x + q D (there m is D
    itself where alpha = 0, since eps says nothing of the data); "s", if there, is the standard
    deviation of fresh noise. "order" is how many values count: 1 at the start and wherever
    lam = sigma/alpha is 0 or infinite. The history is one array [depth, b, ...], newest first.
    """

    @property
    def kind(self) -> str:
        """What m is: "x0" or "eps"."""
        return "x0"

    @property
    def depth(self) -> int:
        """How many values the solver keeps, the newest included."""
        raise NotImplementedError

    @property
    def renoises(self) -> bool:
        return type(self).step is Multistep.step

    def weights(self, times: Sequence[Any], t_next) -> dict[str, Any]:
        """Returns the coefficients of the step times[0] -> t_next, shaped like t; c [..., depth].

        `times`: of the values, newest first; fewer than `depth` mean a lower order. NumPy or JAX.
        """
        raise NotImplementedError

    def orders(self, grid: np.ndarray) -> np.ndarray:
        """Returns how many values each step of `grid` [n + 1] uses: [n], from 1 to `depth`.

        Times at which lam is infinite do not count, nor do repeated ones (a step of length 0).
        """
        usable = np.empty(grid.size - 1, np.int64)
        run = 0
        finite = self.process.alpha(grid[:-1]) > 0
        for i in range(usable.size):
            run = 1 if i and grid[i] == grid[i - 1] else run + int(finite[i])
            usable[i] = run
        order = np.clip(usable, 1, self.depth)
        return np.where(grid[:-1] == grid[1:], 1, order)

    def coefficients(self, t, t_next):
        return self.weights([t], t_next)

    def finish(self, rows):
        grid = np.append(rows["t"], rows["t_next"][-1])
        order = self.orders(grid)
        rows = {k: np.array(v) for k, v in rows.items()} | {"order": order}
        for k in range(2, self.depth + 1):
            i = np.flatnonzero(order == k)
            times = [grid[i - j] for j in range(k)]
            for name, value in self.weights(times, grid[i + 1]).items():
                rows[name][i] = value
        return rows

    def own(self, row: Row, times: Sequence[Array], t_next: Array) -> dict[str, Any]:
        """Returns `row` as it is for images with times of their own, inside a step.

        `times`: [b] each, newest first, `depth` of them; those beyond the row's order are not
        looked at. An image whose times do not fall strictly gets a lower order.
        """
        new = self.row(times[0], t_next)
        falls = jnp.full(jnp.shape(times[0]), True)
        for k in range(2, self.depth + 1):
            falls &= times[k - 1] > times[k - 2]
            use = falls & (row["order"] >= k)
            for name, value in self.weights(times[:k], t_next).items():
                new[name] = jnp.where(bcast(use, value), value, new[name])
        return {**row, **new}

    def init(self, x: Array, memory: Tree) -> State:
        return State(x, memory, blank(x, self.depth))

    def value(self, row: Row, x: Array, x0: Array) -> Array:
        """Returns m of one evaluation."""
        return x0 if self.kind == "x0" else value_of(row, x, x0)

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        x = state.x
        out, memory = predict(x, row, state.memory)
        history = push(state.history, self.value(row, x, stepped(out)))
        x = displaced(row, bcast(row["a"], x) * x + combine(row["c"], history), out)
        if "s" in row:
            x = x + bcast(row["s"], x) * standard_normal(keys, x)
        return State(x, memory, history)


def value_of(row: Mapping[str, Any], x: Array, x0: Array, suffix: str = "") -> Array:
    """Returns p x + q x0 with the row's coefficients (of the stage `suffix`)."""
    return bcast(row["p" + suffix], x) * x + bcast(row["q" + suffix], x) * x0


def blank(x: Array, depth: int) -> Array:
    """Returns an empty history [depth, *x.shape], sharded like x."""
    return jnp.stack([jnp.zeros_like(x)] * depth)


def push(history: Array, value: Array) -> Array:
    """Returns the history [p, b, ...] with `value` in front; the oldest is dropped."""
    return jnp.concatenate([value[None], history[:-1]])


def combine(c: Array, history: Array) -> Array:
    """Returns sum_j c[..., j] history[j]; c [k] or [b, k], history [p >= k, b, ...]."""
    out = bcast(c[..., 0], history[0]) * history[0]
    for j in range(1, c.shape[-1]):
        out = out + bcast(c[..., j], out) * history[j]
    return out


def falling(order: np.ndarray) -> np.ndarray:
    """Returns `order` cut to the number of steps that are left: ..., 3, 2, 1."""
    return np.minimum(order, np.arange(order.size, 0, -1))


def interpolatory(nodes: Sequence[Any], moments: Sequence[Any]) -> list[Any]:
    """Returns w_k with sum_k w_k f(nodes[k]) = L[polynomial through f]; as many as nodes.

    `moments`[q] is what the linear functional L makes of r^q. Nodes and moments may be arrays.
    """
    weights = []
    for k, own in enumerate(nodes):
        poly: list[Any] = [1.0]  # of the k-th Lagrange polynomial, constant first
        for j, other in enumerate(nodes):
            if j != k:
                gap = own - other
                poly = [(up - other * low) / gap for up, low in zip([0.0, *poly], [*poly, 0.0])]
        weights.append(sum(c * m for c, m in zip(poly, moments)))
    return weights


def phi(z, count: int) -> list[Any]:
    """Returns phi_1 .. phi_count at z: phi_k(z) = integral_0^1 e^((1-s) z) s^(k-1) ds/(k-1)!.

    phi_1 = (e^z - 1)/z and phi_{k+1} = (phi_k - 1/k!)/z, by their series where that cancels.
    """
    xp = namespace(z)
    small = xp.abs(z) < 1
    near, far = xp.where(small, z, 0.0), xp.where(small, 1.0, z)
    out, value = [], xp.expm1(far) / far
    for k in range(1, count + 1):
        series = sum(near**m * (1 / math.factorial(m + k)) for m in range(_TERMS))
        out.append(xp.where(small, series, value))
        value = (value - 1 / math.factorial(k)) / far
    return out


def stacked(weights: Sequence[Any], depth: int, like) -> Any:
    """Returns the weights as one array [..., depth] shaped like `like`, zeros behind them."""
    xp = namespace(like, *weights)
    full = [w + xp.zeros_like(like) for w in weights]
    return xp.stack([*full, *[xp.zeros_like(like)] * (depth - len(full))], axis=-1)
