"""Sampling with a part of the data known: inpainting, colourisation, any linear measurement.

Song et al., arXiv 2011.13456, appendix I: after every update of any solver, the known coordinates
of x_t are replaced by the measurement noised to the same time, y_t = alpha y + sigma A z with fresh
z, and those of the mean that is returned in the end by alpha y. The method is exact where the
unknown coordinates are independent of the known; elsewhere it is biased, since what an update did
to the unknown ones did not see the fresh noise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array, Tree, bcast
from genjax.core.errors import UserError
from genjax.process.gaussian import Process
from genjax.solvers.base import Impose, Predict, Row, Solver, standard_normal
from genjax.solvers.operators import Operator


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of each image: `y` = operator.measure(x0) [b, ...], without noise.

    `legacy` reproduces the published code, for "pc": the known part of the start is not noised; an
    update from t to t_next is followed by noise of time t; the mean takes its unknown part from x,
    so that the output holds the last noise; the known part of the output is alpha(t) y. By default
    the start is x_t's law, the noise is that of the time where x lies, the output has no noise, and
    its known part is y.
    """

    process: Process
    operator: Operator
    y: Array
    legacy: bool = False

    def start(self, x: Array, t) -> Array:
        """Returns the noise `x` [b, h, w, c] of a first time `t` with what is known in it."""
        if self.legacy:
            return self.operator.published_start(x) + self.operator.lift(self.y)
        # The noise of x is already that of the known part, up to the prior's standard deviation.
        z = self.operator.measure(x) / self.process.start_std(t)
        return self.operator.replace(x, self._at(t) + self.process.sigma(t) * z)

    def impose(self, x: Array, mean: Array, t, keys: Array) -> tuple[Array, Array]:
        """Returns (x, mean) with what is known at the time `t` (scalar or [b]) where x lies."""
        z = self.operator.measure(standard_normal(keys, x))
        x = self.operator.replace(x, self._at(t) + bcast(self.process.sigma(t), z) * z)
        return x, self.operator.replace(x if self.legacy else mean, self._at(t))

    def finish(self, x: Array) -> Array:
        """Returns the output x [b, h, w, c] with the known part y."""
        return x if self.legacy else self.operator.replace(x, self.y)

    def _at(self, t) -> Array:
        return bcast(self.process.alpha(t), self.y) * self.y


@dataclasses.dataclass(frozen=True)
class Imposed:
    """A solver that keeps to what is `known`; it is one itself. `t` is its first time.

    Each step of the solver is followed by `known.impose` at the row's t_next (a solver that holds
    several updates in a step calls it after each). Multistep and Runge-Kutta stages inside a step
    run free. Raises `UserError` for an adaptive solver: between the ends of its grid there is no
    time at which to impose anything.
    """

    solver: Solver
    known: Known
    t: Any

    def __post_init__(self):
        if self.solver.adaptive:
            raise UserError(
                "--solver: an adaptive solver chooses its own times, so nothing can be imposed "
                "between the ends of its grid; take pc, heun, euler or edm with --steps"
            )

    def init(self, x: Array, memory: Tree) -> Any:
        """Returns the state before the first step; `x` is the noise."""
        return self.solver.init(self.known.start(x, self.t), memory)

    def step(self, predict: Predict, state: Any, row: Row, keys: Array) -> Any:
        """Returns the state after the step of `row`, with what is known at its end."""

        if self.solver.imposes:
            return self.solver.imposing(self._at_times_of(row)).step(predict, state, row, keys)
        state = self.solver.step(predict, state, row, keys)
        own = jax.vmap(lambda k: keys_lib.fold(k, "impose"))(keys)
        x, _ = self.known.impose(state.x, state.x, row["t_next"], own)
        return dataclasses.replace(state, x=x)

    def _at_times_of(self, row: Row) -> Impose:
        if not self.known.legacy:
            return self.known.impose
        return lambda x, mean, t, keys: self.known.impose(x, mean, row["t"], keys)

    def output(self, state: Any) -> Array:
        """Returns the sample of a final state."""
        return self.known.finish(self.solver.output(state))

    def measures(self, state: Any) -> dict[str, Array]:
        """Returns what the solver measured."""
        return self.solver.measures(state)


def known_image(operator: Operator, u: Array, centre: float) -> Array:
    """Returns the picture [b, h, w, c] of a measurement `u` of x - `centre`.

    What is not known stands at `centre`, mid-grey for the middle of the data range.
    """
    return centre + operator.lift(jnp.asarray(u))
