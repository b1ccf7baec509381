"""What every solver is: rows of coefficients made on the host, and a step for `lax.scan`.

Most samplers of the literature are one affine update with one network evaluation,
x' = a x + c D + s z, and differ in the rows a, c, s alone: those classes define `coefficients`
and inherit the rest. Any object with the methods of `Solver` will do.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array, Tree, bcast, namespace
from genjax.core.errors import UserError
from genjax.core.types import Prediction, pytree
from genjax.process.gaussian import Process

Row = Mapping[str, Any]
# (x [b, ...], row, memory) -> (what is known of the data, memory). It reads row["t"], a scalar or
# [b], and where they exist row["w"] (guidance weight), row["on"] (whether guidance acts at all) and
# row["inputs"] (a dict for the network).
Predict = Callable[[Array, Row, Tree], tuple[Prediction, Tree]]
# (x [b, ...], mean, t, keys [b]) -> (x, mean): what is known of the data put in its place, at the
# time t where x lies; `mean` is x before the update's noise. The keys belong to image and update.
Impose = Callable[[Array, Array, Array, Array], tuple[Array, Array]]


@pytree
class State:
    """The scan's carry: the sample `x`, guidance's `memory`, a multistep solver's `history`."""

    x: Array
    memory: Tree = ()
    history: Tree = ()


@dataclasses.dataclass(frozen=True)
class Solver:
    """Base of all solvers. Options come from the config; the process is given by `bind`.

    To write one: `coefficients` for an affine solver, else `step` (and `init`, if it remembers).
    A solver whose step holds several updates calls `impose`, where there is one, after each; after
    the steps of the others a wrapper can do so.
    """

    process: Process = dataclasses.field(init=False, repr=False, default=cast(Process, None))
    impose: Impose | None = dataclasses.field(init=False, repr=False, default=None)
    adaptive: ClassVar[bool] = False  # whether it chooses its own times between the grid's ends
    imposes: ClassVar[bool] = False  # whether its step calls `impose` itself

    def bind(self, process: Process) -> Self:
        """Returns this solver for `process`."""
        bound = copy.copy(self)
        object.__setattr__(bound, "process", process)
        return bound

    @property
    def renoises(self) -> bool:
        """Whether its step can put back the noise of another estimate (`Prediction.x0_noise`)."""
        return type(self).step is Solver.step

    def imposing(self, fn: Impose | None) -> Self:
        """Returns this solver with `fn` called after each of its updates."""
        bound = copy.copy(self)
        object.__setattr__(bound, "impose", fn)
        return bound

    def coefficients(self, t, t_next) -> dict[str, Any]:
        """Returns the coefficients of steps t -> t_next, shaped like t (NumPy or JAX)."""
        raise NotImplementedError

    def row(self, t, t_next) -> dict[str, Any]:
        """Returns the times and coefficients of steps t -> t_next, shaped like t.

        With NumPy float64 [n] this makes the rows of a grid. With traced times [b] it makes, inside
        a step, the row of images that have times of their own: `{**row, **solver.row(t, t_next)}`.
        """
        return {"t": t, "t_next": t_next, **self.coefficients(t, t_next)}

    def rows(self, grid: np.ndarray) -> dict[str, Any]:
        """Returns one row per step of `grid` [n + 1], from noise to data: float64 leaves [n].

        Raises `UserError` where a coefficient is infinite: the solver cannot start (or end) there.
        """
        grid = np.asarray(grid, np.float64)
        if grid.ndim != 1 or grid.size < 2:
            raise UserError(f"sampler.grid: expected at least two times, got {grid.tolist()}")
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rows = self.finish(self.row(grid[:-1], grid[1:]))
        for name, value in rows.items():
            if not np.all(np.isfinite(value)):
                i = int(np.argwhere(~np.isfinite(value))[0, 0])
                raise UserError(
                    f"sampler.solver: {type(self).__name__} has no finite coefficient {name!r} for"
                    f" the step from t = {grid[i]:g} to {grid[i + 1]:g}; start or end the grid"
                    " elsewhere, or choose another solver"
                )
        return rows

    def finish(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Returns the rows with what is special about the first or the last step of a grid."""
        return rows

    def init(self, x: Array, memory: Tree) -> Any:
        """Returns the state before the first step; `x` is the noise, `memory` guidance's."""
        return State(x, memory)

    def step(self, predict: Predict, state: Any, row: Row, keys: Array) -> Any:
        """Returns the state after the step of `row`; `keys` [b] belong to image and step."""
        out, memory = predict(state.x, row, state.memory)
        x = displaced(row, affine(row, state.x, stepped(out)), out)
        if "s" in row:
            x = x + bcast(row["s"], x) * standard_normal(keys, x)
        return dataclasses.replace(state, x=x, memory=memory)

    def output(self, state: Any) -> Array:
        """Returns the sample of a final state."""
        return state.x

    def nfe(self, n: int) -> int:
        """Returns how often n steps call `predict`; for a solver that adapts, at most."""
        return n

    def measures(self, state: Any) -> dict[str, Array]:
        """Returns what only the solve could tell, by image: {"nfe": int32 [b], "ok": bool [b]}.

        The evaluations that it took and whether it reached its end; {} for a fixed number of steps.
        """
        return {}


def affine(row: Row, x: Array, x0: Array) -> Array:
    """Returns a x + c x0 with the row's coefficients (scalars or [b])."""
    return bcast(row["a"], x) * x + bcast(row["c"], x) * x0


def stepped(out: Prediction) -> Array:
    """Returns the estimate that a solver steps with: the one whose noise goes back into x."""
    return out.x0 if out.x0_noise is None else out.x0_noise


def displaced(row: Row, x: Array, out: Prediction) -> Array:
    """Returns the x of a step with `stepped(out)`, its data replaced by those of out.x0.

    x + alpha' (x0 - x0_noise); for DDIM that is alpha' x0 + sigma' eps of x0_noise (CFG++).
    """
    if out.x0_noise is None:
        return x
    return x + bcast(row["alpha_next"], x) * (out.x0 - out.x0_noise)


def standard_normal(keys: Array, x: Array) -> Array:
    """Returns noise shaped like `x` [b, ...] whose image i depends on `keys[i]` alone."""
    return keys_lib.normal(keys, x.shape[1:], x.dtype)


def at(row: Row, suffix: str) -> dict[str, Any]:
    """Returns the row as `predict` must see it at another time of the same step.

    `at(row, "_next")` evaluates at row["t_next"] with the guidance weight and the network inputs of
    that time, `at(row, "_2")` at the second stage's; where there are none, with the step's.
    """
    moved = {k: row[k + suffix] for k in ("t", "w", "on", "inputs") if k + suffix in row}
    return {**row, **moved}


def stage_times(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Returns suffix -> times for "t" and every further time ("t_2", "t_next", ...) of the rows."""
    return {k[1:]: t for k, t in rows.items() if k == "t" or k.startswith("t_")}


def check_interval(interval: tuple[float, float] | None) -> None:
    """Raises ValueError unless it is None or (lo, hi) with 0 <= lo < hi."""
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(f"interval must be 0 <= lo < hi, got {interval}")


def inside(process: Process, t, interval: tuple[float, float] | None):
    """Says whether lo < sigma/alpha <= hi at the times t; everywhere if there is no interval."""
    if interval is None:
        return np.full(np.shape(t), True)
    lo, hi = interval
    alpha, sigma = process.alpha(t), process.sigma(t)  # lam itself is infinite at alpha = 0
    return (lo * alpha < sigma) & (sigma <= hi * alpha)


def slope(process: Process, t) -> tuple[Any, Any]:
    """Returns (p, q) with velocity dx/dt = p x + q D of the probability-flow ODE at `t`.

    The velocity is alpha' D + sigma' (x - alpha D)/sigma: p = sigma'/sigma, q = alpha' - p alpha.
    """
    p = process.dsigma(t) / process.sigma(t)
    return p, process.dalpha(t) - p * process.alpha(t)


def lam_ratio(process: Process, t, t_next):
    """Returns lam(t_next)/lam(t) for lam = sigma/alpha, finite where alpha(t) = 0."""
    top = process.sigma(t_next) * process.alpha(t)
    return top / (process.alpha(t_next) * process.sigma(t))


def clip_positive(value):
    """Returns max(value, 0): differences that rounding may bring below zero."""
    return namespace(value).maximum(value, 0.0)
