"""Euler and Heun for the probability-flow ODE (Karras et al., arXiv 2206.00364; SiT, 2401.08740).

`space` names the variable that is stepped: "t", where dx/dt is the process's velocity, or "lam",
where y = x/alpha obeys dy/dlam = (y - D)/lam for every process. For EDM and VE scalings (alpha = 1,
and sigma = t for EDM) the papers' samplers are "lam"; flow matching's is "t". Euler in t is exact
flow DDIM for rectified flow, Euler in lam is DDIM for every process.
"""

import dataclasses

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree, bcast, namespace
from genjax.core.registry import option
from genjax.solvers.base import Predict, Row, Solver, State, affine, at, lam_ratio, slope

_SPACE = 'variable that is stepped: "t" or "lam" (lam = sigma/alpha, x/alpha)'


def _check_space(space: str) -> None:
    if space not in ("t", "lam"):
        raise ValueError(f'space must be "t" or "lam", got {space!r}')


@dataclasses.dataclass(frozen=True)
class Euler(Solver):
    """First order: x' = x + (t' - t) dx/dt, or the same for x/alpha in lam. NFE n.

    Both start where alpha = 0 (flow at t = 1) and end at sigma = 0.
    """

    space: str = option("t", _SPACE)

    def __post_init__(self):
        _check_space(self.space)

    def coefficients(self, t, t_next):
        process = self.process
        if self.space == "t":
            h = t_next - t
            p, q = slope(process, t)
            return {"a": 1 + h * p, "c": h * q}
        ratio = lam_ratio(process, t, t_next)
        return {
            "a": process.sigma(t_next) / process.sigma(t),
            "c": process.alpha(t_next) * (1 - ratio),
        }


@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Second order: the average of the slopes at both ends of the step.

    A slope needs sigma > 0, so by default (`t_floor` = 0, EDM's rule) the last step is an Euler
    step: NFE 2n - 1, the second call of that row is skipped. With `t_floor` > 0 no step is special:
    a second slope that would fall below that time is taken at it, with the weights of the
    second-order Runge-Kutta method of that node; NFE 2n. SiT's ODE numbers are the limit
    `t_floor` -> 0 (its velocity exists at t = 0; in float32 choose 1e-3).

    "lam" cannot start where alpha = 0.
    """

    space: str = option("t", _SPACE)
    t_floor: float = option(0.0, "smallest time of a second slope; 0: the last step is Euler's")

    def __post_init__(self):
        _check_space(self.space)
        if self.t_floor < 0:
            raise ValueError(f"t_floor must be >= 0, got {self.t_floor}")

    def coefficients(self, t, t_next):
        """x2 = a x + c D(x, t), x' = a2 x + c2 D(x, t) + b2 x2 + e2 D(x2, t_2)."""
        process, xp = self.process, namespace(t, t_next)
        t_2 = xp.maximum(t_next, xp.minimum(self.t_floor, t))
        live = process.sigma(t_2) > 0
        safe = xp.where(live, t_2, t)  # where there is no second slope, any finite number will do
        if self.space == "t":
            h, h2 = t_next - t, t_2 - t
            weight = h / (2 * xp.where(h2 == 0, 1, h2))  # 1/2 for Heun; a step of length 0 is x
            (p, q), (p2, q2) = slope(process, t), slope(process, safe)
            scale = scale2 = 1.0
        else:
            lam, lam_2 = process.lam(t), process.lam(safe)
            h, h2 = process.lam(t_next) - lam, process.lam(t_2) - lam
            weight = h / (2 * xp.where(h2 == 0, 1, h2))
            alpha, alpha_2 = process.alpha(t), process.alpha(safe)
            # slopes of y in terms of x and D; x2 = scale2 y2, x' = scale y'
            p, q, p2, q2 = 1 / (lam * alpha), -1 / lam, 1 / (lam_2 * alpha_2), -1 / lam_2
            scale, scale2 = process.alpha(t_next), process.alpha(t_2)
        y = 1.0 if self.space == "t" else 1 / process.alpha(t)
        second = xp.where(live, weight * h, 0.0)
        return {
            "t_2": t_2,
            "a": scale2 * (y + h2 * p),
            "c": scale2 * h2 * q,
            "a2": scale * (y + (h - second) * p),
            "c2": scale * (h - second) * q,
            "b2": scale * second * p2,
            "e2": scale * second * q2,
            "second": xp.where(live, 1.0, 0.0),
        }

    def finish(self, rows):
        if self.t_floor > 0:
            return rows
        second = rows["second"].copy()
        second[-1] = 0.0
        return {**rows, "second": second}

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        x, memory = two_stages(predict, state.x, row, state.memory)
        return dataclasses.replace(state, x=x, memory=memory)

    def nfe(self, n: int) -> int:
        return 2 * n if self.t_floor > 0 else 2 * n - 1


def two_stages(predict: Predict, x: Array, row: Row, memory: Tree) -> tuple[Array, Tree]:
    """Returns x after x2 = a x + c D(x, t), x' = a2 x + c2 D(x, t) + b2 x2 + e2 D(x2, t_2).

    Where row["second"] is 0 the step ends at x2; the second call is skipped if that holds for all.
    """
    out, memory = predict(x, row, memory)
    x2 = affine(row, x, out.x0)

    def correct(memory):
        out2, memory = predict(x2, at(row, "_2"), memory)
        a2, c2, b2, e2 = (bcast(row[k], x) for k in ("a2", "c2", "b2", "e2"))
        corrected = a2 * x + c2 * out.x0 + b2 * x2 + e2 * out2.x0
        return jnp.where(bcast(row["second"], x) > 0, corrected, x2), memory

    return jax.lax.cond(jnp.any(row["second"] > 0), correct, lambda memory: (x2, memory), memory)
