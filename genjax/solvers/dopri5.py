"""Dormand-Prince 5(4) with adaptive steps, inside the graph, and the ODE solver "rk45" made of it.

The steps are those of SciPy's RK45 at the same tolerances, decision by decision: the tableau
(Dormand and Prince 1980), the norm sqrt(mean((error/(atol + rtol max(|y|, |y'|)))^2)), the first
step (Hairer, Norsett, Wanner, section II.4) and the controller with exponent -1/5. Published
results of Score SDE's probability-flow ODE come from that solver, so its evaluations are counted
the same way: two before the first step, six for each step tried.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree, bcast
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.core.types import pytree
from genjax.process.gaussian import VE, VP, Process
from genjax.solvers.base import Predict, Row, Solver
from genjax.solvers.predictors import ReverseDiffusion, legacy

# Stage i is evaluated at t + NODES[i] h and y + h sum_j STAGES[i][j] k_j; the last stage is the
# fifth-order result itself, so that its slope is the next step's first ("first same as last").
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Fifth-order minus fourth-order weights (up to sign) of k_0 .. k_6.
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
FIRST_CALLS, CALLS = 2, 6  # evaluations before the first step, and of every step tried

Slope = Callable[[Array, Tree], Tree]  # (t [b], y [b, ...]) -> dy/dt [b, ...]


@pytree
class Carry:
    """Where every sample stands: time, state and its slope, next step's length, tries, flags."""

    t: Array
    y: Tree
    f: Tree
    h: Array
    tries: Array
    rejected: Array  # the last try was: the step may not grow, nor be lifted to the shortest
    failed: Array


def integrate(
    f: Slope,
    y0: Tree,
    t0,
    t1,
    rtol: float,
    atol: float,
    norm: str = "sample",
    max_steps: int = 5000,
) -> tuple[Tree, Array, Array]:
    """Returns (y(t1), evaluations int32 [b], whether t1 was reached, bool [b]).

    `y0`: array or tree of leaves [b, ...]; `f(t, y)` gets t [b] and returns dy/dt like y, sample
    i's of sample i alone. `t0`, `t1`: scalars or [b], either may be the larger.
    norm "sample": each sample has its own error norm and its own steps, and rests once it is done,
    so that its result does not depend on the others; "batch": one norm over all numbers of the
    batch and one step for all (what a solver that is handed the flattened batch does).
    A sample stops short of t1 after `max_steps` tries, or where the step that the tolerances ask
    for is lost in the rounding of t (slopes that are not finite end there too).
    """
    leaves = jax.tree.leaves(y0)
    b, dtype = leaves[0].shape[0], jnp.result_type(*leaves)
    t0, t1 = (jnp.broadcast_to(jnp.asarray(t, dtype), (b,)) for t in (t0, t1))
    sign = jnp.where(t1 >= t0, 1.0, -1.0).astype(dtype)
    measure = _rms(norm)

    first, h = _start(f, t0, y0, jnp.abs(t1 - t0), sign, rtol, atol, measure)
    none = jnp.zeros((b,), bool)
    weights = jnp.asarray(ERROR, dtype)
    table = (jnp.asarray(NODES, dtype), jnp.asarray(_square(STAGES), dtype))
    start = Carry(t0, y0, first, h, jnp.zeros((b,), jnp.int32), none, none)

    def going(c: Carry) -> Array:
        return (c.t != t1) & ~c.failed & (c.tries < max_steps)

    def body(c: Carry) -> Carry:
        live = going(c)
        shortest = 10 * jnp.abs(jnp.nextafter(c.t, sign * jnp.inf) - c.t)
        lost = c.rejected & (c.h < shortest)
        wanted = c.t + sign * jnp.where(c.rejected, c.h, jnp.maximum(c.h, shortest))
        t = jnp.where(sign * (wanted - t1) > 0, t1, wanted)
        step = jnp.where(live, t - c.t, 0)  # a resting sample evaluates where it stands

        def stage(carry, item):
            """A scan, so that the network is compiled once and not six times."""
            (i, node, weights), k = item, carry[1]
            y = _ahead(c.y, step, weights, k)
            new = f(jnp.where(live, c.t + node * step, c.t), y)
            return (y, jax.tree.map(lambda k, v: k.at[i].set(v), k, new)), None

        k = jax.tree.map(lambda v: jnp.zeros((7, *v.shape), v.dtype).at[0].set(v), c.f)
        (y, k), _ = jax.lax.scan(stage, (c.y, k), (jnp.arange(1, 7), *table))
        error = measure(
            jax.tree.map(lambda k: bcast(step, k[0]) * _sum(weights, k), k), c.y, y, rtol, atol
        )
        accepted = error < 1
        scale = SAFETY * jnp.where(error > 0, error, 1.0) ** -0.2
        growth = jnp.where(error > 0, jnp.minimum(GROW, scale), GROW)
        growth = jnp.where(c.rejected, jnp.minimum(1.0, growth), growth)
        # An error that is no number shrinks the step as far as any does.
        shrink = jnp.where(scale > SHRINK, scale, SHRINK)
        moved = live & accepted & ~lost
        return Carry(
            t=jnp.where(moved, t, c.t),
            y=_select(moved, y, c.y),
            f=_select(moved, jax.tree.map(lambda k: k[-1], k), c.f),
            h=jnp.where(live, jnp.abs(step) * jnp.where(accepted, growth, shrink), c.h),
            tries=c.tries + (live & ~lost),
            rejected=jnp.where(live, ~accepted, c.rejected),
            failed=c.failed | (live & lost),
        )

    end = jax.lax.while_loop(lambda c: jnp.any(going(c)), body, start)
    return end.y, FIRST_CALLS + CALLS * end.tries, end.t == t1


def _start(f, t0, y0, length, sign, rtol, atol, measure) -> tuple[Tree, Array]:
    """Returns the slope at t0 and the first step's length [b].

    Slopes and their change over an Euler step decide. The two evaluations are a scan's, so that the
    network is compiled once for both.
    """

    def size(v):
        return measure(v, y0, y0, rtol, atol)

    def call(point, _):
        slope = f(*point)
        d0, d1 = size(y0), size(slope)
        tiny = (d0 < 1e-5) | (d1 < 1e-5)
        h = jnp.minimum(jnp.where(tiny, 1e-6, 0.01 * d0 / jnp.where(tiny, 1, d1)), length)
        euler = jax.tree.map(lambda y, k: y + bcast(sign * h, y) * k, y0, slope)
        return (t0 + sign * h, euler), (slope, h, d1)

    _, (slopes, h, d1) = jax.lax.scan(call, (t0, y0), None, length=2)
    h, d1 = h[0], d1[0]
    d2 = size(jax.tree.map(lambda k: k[1] - k[0], slopes)) / jnp.where(h > 0, h, 1)
    steepest = jnp.maximum(d1, d2)
    still = steepest <= 1e-15
    ideal = (0.01 / jnp.where(still, 1, steepest)) ** 0.2
    h1 = jnp.where(still, jnp.maximum(1e-6, 1e-3 * h), ideal)
    return jax.tree.map(lambda k: k[0], slopes), jnp.minimum(jnp.minimum(100 * h, h1), length)


def _ahead(y: Tree, step: Array, weights: Array, slopes: Tree) -> Tree:
    """Returns y + step sum_j weights[j] slopes[j]; the slopes' leading axis is j."""
    return jax.tree.map(lambda y, k: y + bcast(step, y) * _sum(weights, k), y, slopes)


def _sum(weights: Array, k: Array) -> Array:
    """Returns sum_j weights[j] k[j], not as a matrix product, whose precision is the machine's."""
    return jnp.sum(bcast(weights, k) * k, axis=0)


def _square(stages) -> np.ndarray:
    """Returns the stages' weights [6, 7], padded with zeros."""
    return np.array([row + (0.0,) * (7 - len(row)) for row in stages])


def _select(which: Array, a: Tree, b: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(bcast(which, a), a, b), a, b)


def _rms(norm: str) -> Callable[..., Array]:
    """Returns (v, y, y', rtol, atol) -> the norm [b] of v against the tolerated errors."""
    if norm not in ("sample", "batch"):
        raise ValueError(f'norm must be "sample" or "batch", got {norm!r}')

    def measure(v, y, y_new, rtol, atol):
        def squares(v, y, y_new):
            scale = atol + rtol * jnp.maximum(jnp.abs(y), jnp.abs(y_new))
            return jnp.sum((v / scale).reshape(v.shape[0], -1) ** 2, axis=1)

        parts = jax.tree.leaves(jax.tree.map(squares, v, y, y_new))
        count = sum(np.prod(leaf.shape[1:], dtype=int) for leaf in jax.tree.leaves(y))
        mean = jnp.sum(jnp.stack(parts), axis=0) / count
        if norm == "batch":
            mean = jnp.broadcast_to(jnp.mean(mean), mean.shape)
        return jnp.sqrt(mean)

    return measure


@pytree
class Adapted:
    """State of "rk45": sample, guidance's memory, evaluations, and whether the end was reached."""

    x: Array
    memory: Tree
    nfe: Array
    ok: Array


@dataclasses.dataclass(frozen=True)
class RK45(Solver):
    """The probability-flow ODE from the grid's first time to its last, with SciPy's adaptive steps.

    Only the ends of the grid count. An end without noise (sigma = 0) is replaced by `floor`, and
    the data are then the denoiser's estimate there. Guidance's memory stays as it starts, since
    steps may be tried twice; its weight must be the same at all times.
    """

    adaptive = True

    rtol: float = option(1e-5, "relative tolerance")
    atol: float = option(1e-5, "absolute tolerance")
    space: str = option("t", 'variable that is stepped: "t" or "lam" (lam = sigma/alpha, x/alpha)')
    norm: str = option(
        "sample", 'error norm over each "sample" or, as published, over the whole "batch"'
    )
    denoise: str = option(
        "none",
        'at the end: "none", "mean" (the estimate of the data), or "legacy" (Score SDE: a '
        "noiseless step of reverse diffusion in its 1000 scales)",
    )
    floor: float = option(
        0.002, "noise level sigma/alpha that replaces an end without noise (never below t_min)"
    )
    max_steps: int = option(5000, "steps that may be tried before an image is given up")

    def __post_init__(self):
        for field in ("rtol", "atol", "floor"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} must be one of {', '.join(known)}; got {getattr(self, field)!r}"
                )
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")

    def rows(self, grid: np.ndarray) -> dict[str, Any]:
        """Returns one row: the ends of `grid`."""
        grid = np.asarray(grid, np.float64)
        return super().rows(grid if grid.size < 2 else grid[[0, -1]])

    def coefficients(self, t, t_next):
        """The solve ends at `t_stop`; then x = a x + c D(x, t_stop), where `last` says so."""
        process = self.process
        bare = process.sigma(t_next) == 0
        floor = max(float(process.t_of_lam(np.float64(self.floor))), process.t_min)
        t_stop = np.where(bare, np.minimum(floor, t), t_next)
        a, c = 1.0, 0.0
        if self.denoise == "mean":
            a, c = 0.0, process.alpha(t_next)
        elif self.denoise == "legacy":
            a, c = _published_step(process, t_stop)
        ends = {"start": t, "stop": t_stop}
        if self.space == "lam":
            ends = {"start": process.lam(t), "stop": process.lam(t_stop)}
        return {
            "t_stop": t_stop,
            **ends,
            "scale": 1 / process.alpha(t) if self.space == "lam" else np.ones_like(t),
            "unscale": process.alpha(t_stop) if self.space == "lam" else np.ones_like(t),
            "a": np.where(bare, 0.0, a),
            "c": np.where(bare, process.alpha(t_next), c),
            "last": bare | (self.denoise != "none"),
        }

    def init(self, x, memory):
        b = x.shape[0]
        return Adapted(x, memory, jnp.zeros((b,), jnp.int32), jnp.ones((b,), bool))

    def step(self, predict: Predict, state: Adapted, row: Row, keys: Array) -> Adapted:
        process = self.process
        if self.impose is not None:
            raise UserError(
                "sampler.solver: rk45 chooses its own steps, after which nothing can be imposed; "
                "choose another solver for edits"
            )

        def data(x, t):
            return predict(x, {**row, "t": t}, state.memory)[0].x0

        def slope(t, x):
            return process.velocity(x, t, data(x, t))

        def slope_in_lam(lam, y):
            t = process.t_of_lam(lam)
            x0 = data(bcast(process.alpha(t), y) * y, t)
            return (y - x0) / bcast(lam, y)

        y, nfe, ok = integrate(
            slope if self.space == "t" else slope_in_lam,
            row["scale"] * state.x,
            row["start"],
            row["stop"],
            self.rtol,
            self.atol,
            self.norm,
            self.max_steps,
        )

        def finish(x):
            t = jnp.broadcast_to(row["t_stop"], x.shape[:1])
            return row["a"] * x + row["c"] * data(x, t)

        x = jax.lax.cond(row["last"], finish, lambda x: x, row["unscale"] * y)
        return Adapted(x, state.memory, state.nfe + nfe + row["last"], state.ok & ok)

    def measures(self, state: Adapted) -> dict[str, Array]:
        return {"nfe": state.nfe, "ok": state.ok}

    def nfe(self, n: int) -> int:
        """Returns the most evaluations that an image may take; the state counts the true ones."""
        return FIRST_CALLS + CALLS * self.max_steps + 1


_CHOICES = {
    "space": ("t", "lam"),
    "norm": ("sample", "batch"),
    "denoise": ("none", "mean", "legacy"),
}


def _published_step(process: Process, t) -> tuple[Any, Any]:
    """Returns (a, c) of Score SDE's noiseless last step at t, as x' = a x + c D.

    It is the last of 1000 steps of reverse diffusion whose grid ends at t, without its noise.
    """
    if not isinstance(process, (VE, VP)):
        raise UserError(
            f'sampler.solver.denoise: "legacy" is of Score SDE\'s processes, not '
            f'{type(process).__name__}; choose "mean" or "none"'
        )
    grid = np.linspace(process.t_max, float(t[-1]), 1000)
    step = ReverseDiffusion().update(process, legacy(process, grid, grid))
    keep, gain = step.m[-1], step.u[-1]  # of x and of the score, (alpha D - x)/sigma^2
    variance = process.sigma(t) ** 2
    return keep - gain / variance, gain * process.alpha(t) / variance
