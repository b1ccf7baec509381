"""EDM's stochastic sampler and its general form (Karras et al., arXiv 2206.00364, algorithms 1, 2).

A step first raises the noise level, t -> t_hat with lam_hat = lam (1 + gamma) (churn), then follows
the probability-flow ODE from t_hat to t_next by a second-order Runge-Kutta step:

    x_hat = (alpha_hat/alpha) x + alpha_hat sqrt(lam_hat^2 - lam^2) S_noise z

The paper's general form, with any sigma(t) and s(t), is the choice of the process and of `space`,
the variable u in which the step is linear: "t" is the process's own time; "lam" its sigma = t,
s = 1, for every process; "variance" its sigma = sqrt(t), s = 1 (the VE column). A network whose
precond depends on sigma/alpha alone may be sampled on another process than it was trained on.

Trap: the paper's (x - D)/t cancels where the noise is small, which is why its samplers run in
float64. Here a step is a sum of x and D with coefficients multiplied out in float64 on the host
(Euler's in lam is x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D), and the state is
float32. Measured on data N(0, 0.5^2) against float64: 5e-7 after 18 steps, 3e-6 after 256, a
two-thousandth of a grey level; the difference as printed loses no more (4e-7 and 1.4e-6). So
float32 does not matter in either form, nor need the update be written in terms of F.
"""

import dataclasses
from typing import Any

import numpy as np

from genjax.core.arrays import Array, bcast, namespace
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.process.table import Table
from genjax.solvers.base import (
    Predict,
    Row,
    Solver,
    State,
    affine,
    at,
    clip_positive,
    slope,
    standard_normal,
)
from genjax.solvers.euler import two_stages

_SPACES = ("lam", "t", "variance")


@dataclasses.dataclass(frozen=True)
class EDMSampler(Solver):
    """Runge-Kutta steps of order 2 (or 1) with churn; the last step is Euler's.

    gamma = min(S_churn/N, sqrt(2) - 1) for the steps, N in all, that start at
    S_min <= lam <= S_max, else 0; levels are those of x/alpha, in units of the data range. NFE
    2 n - 1, or n for order 1. Published for data in [-1, 1], as S_churn, S_min, S_max, S_noise:

        CIFAR-10, Score SDE's VP     30, 0.01, 1,  1.007   (n = 192, NFE 383)
        CIFAR-10, Score SDE's VE     80, 0.05, 1,  1.007   (n = 384, NFE 767)
        ImageNet-64, pre-trained ADM 80, 0.05, 50, 1.003   (n = 256, NFE 511)
        ImageNet-64, EDM's training  40, 0.05, 50, 1.003   (n = 256, NFE 511)
        CIFAR-10, EDM's training     0: churn harms

    "lam" and "variance" cannot start where alpha = 0, and neither can churn.
    """

    S_churn: float = option(0.0, "noise put back over all steps; 0: deterministic")
    S_min: float = option(0.0, "smallest sigma/alpha at which noise is put back")
    S_max: float | None = option(None, "largest sigma/alpha at which noise is put back (None: any)")
    S_noise: float = option(1.0, "factor on the noise put back, slightly above 1")
    order: int = option(2, "1: Euler; 2: Runge-Kutta with `alpha`")
    alpha: float = option(
        1.0, "where the second slope is taken, in steps: 1 Heun, 2/3 Ralston, 1/2 midpoint"
    )
    space: str = option("lam", f"variable that is stepped: {', '.join(_SPACES)} (lam^2)")
    snap: bool = option(
        False, "move all times to a table's nearest entries, for networks that know no others"
    )

    def __post_init__(self):
        if self.S_churn < 0 or self.S_noise <= 0:
            raise ValueError("S_churn must be >= 0 and S_noise > 0")
        if self.S_min < 0 or (self.S_max is not None and self.S_max < self.S_min):
            raise ValueError(f"0 <= S_min <= S_max, got {self.S_min} and {self.S_max}")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if self.space not in _SPACES:
            raise ValueError(f"space must be one of {', '.join(_SPACES)}; got {self.space!r}")

    def row(self, t, t_next) -> dict[str, Any]:
        """Returns the rows of steps t -> t_next; the network is seen at "t_hat", then at "t_2".

        On the host t holds the whole grid, whose length is the N of S_churn/N; traced times are
        those of images in one step of an unknown number, so they cannot be churned.
        """
        xp = namespace(t, t_next)
        if self.S_churn > 0 and xp is not np:
            raise UserError(
                "sampler.solver.S_churn: needs to know the number of steps, so it must be 0 where"
                " images have times of their own"
            )
        if self.snap:
            t, t_next = self._snapped(t), self._snapped(t_next)
        row, t_hat = {"t": t, "t_next": t_next}, t
        if self.S_churn > 0:
            t_hat, churn = self._churned(t)
            row |= {"t_hat": t_hat, **churn}
        return {**row, **self.coefficients(t_hat, t_next)}

    def _snapped(self, t):
        if not isinstance(self.process, Table):
            raise UserError(
                "sampler.solver.snap: only a table has entries, but the process is"
                f" {type(self.process).__name__}; set snap to false"
            )
        return namespace(t).where(t > 0, self.process.nearest(t), 0.0)

    def _churned(self, t: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns t_hat, and "up" and "s" of x_hat = up x + s z."""
        process, lam = self.process, self.process.lam(t)
        inside = (self.S_min <= lam) & (lam <= (np.inf if self.S_max is None else self.S_max))
        gamma = np.where(inside, min(self.S_churn / np.size(t), np.sqrt(2) - 1), 0.0)
        t_hat = np.where(gamma > 0, process.t_of_lam(lam * (1 + gamma)), t)
        if self.snap:
            t_hat = self._snapped(np.minimum(t_hat, process.t_max))
        alpha = process.alpha(t_hat)
        added = np.sqrt(clip_positive(process.lam(t_hat) ** 2 - lam**2))
        moved = t_hat != t
        return t_hat, {
            "up": np.where(moved, alpha / process.alpha(t), 1.0),
            "s": np.where(moved, alpha * added * self.S_noise, 0.0),
        }

    def coefficients(self, t, t_next):
        """x2 = a x + c D(x, t), x' = a2 x + c2 D(x, t) + b2 x2 + e2 D(x2, t_2).

        z = x/scale obeys dz/du = p x + q D; z' = z + h ((1 - w) d + w d_2), w = 1/(2 alpha), d_2
        being the slope at u + alpha h. Where there is none (sigma = 0), x2 is Euler's x'.
        """
        u_next, end = self._u(t_next), self._scale(t_next)
        if self.order == 1:
            return self._euler(t, u_next, end)
        h, start = u_next - self._u(t), 1 / self._scale(t)
        p, q = self._slope(t)
        xp = namespace(t, t_next)
        h_2 = self.alpha * h
        t_2 = t_next if self.alpha == 1 else self._t(self._u(t) + h_2)
        live = self.process.sigma(t_2) > 0
        t_2, h_2 = xp.where(live, t_2, t), xp.where(live, h_2, h)
        p_2, q_2 = self._slope(t_2)
        scale_2 = xp.where(live, self._scale(t_2), end)
        first, second = h - h / (2 * self.alpha), h / (2 * self.alpha)
        return {
            "t_2": t_2,
            "a": scale_2 * (start + h_2 * p),
            "c": scale_2 * h_2 * q,
            "a2": end * (start + first * p),
            "c2": end * first * q,
            "b2": end * second * p_2,
            "e2": end * second * q_2,
            "second": xp.where(live, 1.0, 0.0),
        }

    def _u(self, t):
        if self.space == "t":
            return t
        lam = self.process.lam(t)
        return lam if self.space == "lam" else lam**2

    def _t(self, u):
        if self.space == "t":
            return u
        return self.process.t_of_lam(u if self.space == "lam" else namespace(u).sqrt(u))

    def _scale(self, t):
        alpha = self.process.alpha(t)
        return namespace(t).ones_like(alpha) if self.space == "t" else alpha

    def _slope(self, t) -> tuple[Any, Any]:
        """Returns (p, q) with dz/du = p x + q D; for y = x/alpha, dy = (y - D) dlam/lam."""
        if self.space == "t":
            return slope(self.process, t)
        rate = 1 / self._u(t) if self.space == "lam" else 0.5 / self._u(t)
        return rate / self.process.alpha(t), -rate

    def finish(self, rows):
        """Returns the rows with Euler's last step, which goes to sigma = 0 if the grid ends at 0.

        That is the data on VE too, whose own sigma(0) is sigma_min (not in space "t").
        """
        t, t_next = rows.get("t_hat", rows["t"])[-1:], rows["t_next"][-1:]
        u_next, end = self._u(t_next), self._scale(t_next)
        if self.space != "t":
            u_next, end = np.where(t_next == 0, 0.0, u_next), np.where(t_next == 0, 1.0, end)
        last = {**self._euler(t, u_next, end), "second": np.zeros(1)}
        return {k: np.append(v[:-1], last.get(k, v[-1:])) for k, v in rows.items()}

    def _euler(self, t, u_next, end) -> dict[str, Any]:
        """Returns a and c of x' = a x + c D, a step from t to u_next with scale `end`."""
        h = u_next - self._u(t)
        p, q = self._slope(t)
        return {"a": end * (1 / self._scale(t) + h * p), "c": end * h * q}

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        x, memory = state.x, state.memory
        if self.S_churn > 0:
            x = bcast(row["up"], x) * x + bcast(row["s"], x) * standard_normal(keys, x)
            row = at(row, "_hat")
        if self.order == 1:
            out, memory = predict(x, row, memory)
            x = affine(row, x, out.x0)
        else:
            x, memory = two_stages(predict, x, row, memory)
        return dataclasses.replace(state, x=x, memory=memory)

    def nfe(self, n: int) -> int:
        return n if self.order == 1 else 2 * n - 1
