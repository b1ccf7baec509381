"""Solvers whose images have times of their own: what Time-Shift does inside the scan.

A row brings, under "shift", for each of the K places of a window the pixel variance expected there
("variance", infinite where this step must not look) and the time that it stands for ("time"), both
made on the host by `genjax.solvers.time_shift`; "own" holds the coefficients of each place.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree, bcast
from genjax.solvers.base import Predict, Row, Solver, State, stepped
from genjax.solvers.multistep import Multistep, push, value_of

UNSET = -1.0  # a time that no value has yet


def pixel_variance(x: Array) -> Array:
    """Returns the variance of each image [b, ...] over all its numbers, unbiased, float32 [b]."""
    return jnp.var(x.astype(jnp.float32).reshape(x.shape[0], -1), axis=1, ddof=1)


def nearest(variance: Array, expected: Array) -> Array:
    """Returns int [b]: which of `expected` [K] is nearest to each image's `variance` [b].

    Of equally near ones the first, that of least noise.
    """
    return jnp.argmin(jnp.abs(variance[:, None] - expected), axis=1)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A bound solver of which each image takes the place that its own variance chooses.

    For solvers whose row depends on the ends of a step alone: the rows of all places come with the
    step. `steps`: rows of the scan, of each of which the chosen time is kept.
    """

    solver: Solver
    steps: int

    def init(self, x: Array, memory: Tree) -> State:
        """Returns the state before the first step; `x` is the noise."""
        inner = self.solver.init(x, memory)
        return State(x, memory, (inner.history, self._carried(x), blank(x, self.steps)))

    def _carried(self, x: Array) -> Tree:
        """Returns what is remembered of times before the first step."""
        del x
        return ()

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        """Returns the state after the step of `row`, each image by its own times."""
        row, shift = without_shift(row)
        inner, carried, chosen = state.history
        k = nearest(pixel_variance(state.x), shift["variance"])
        own = {name: value[k] for name, value in shift["own"].items()}
        moved = self.solver.step(predict, State(state.x, state.memory, inner), {**row, **own}, keys)
        chosen = chosen.at[:, shift["index"]].set(shift["time"][k])
        return State(moved.x, moved.memory, (moved.history, carried, chosen))

    def output(self, state: State) -> Array:
        """Returns the sample of a final state."""
        return state.x

    def measures(self, state: State) -> dict[str, Array]:
        """Returns {"shifted_times": float32 [b, steps]}, see `time_shift.histogram`."""
        return {"shifted_times": state.history[2]}


@dataclasses.dataclass(frozen=True)
class ShiftedMultistep(Shifted):
    """The same for solvers whose coefficients depend on the times of their past values too.

    Those are computed inside the step, from the times [depth, b] of each image's own values. An
    image none of whose values was ever moved takes the row as it is.
    """

    solver: Multistep

    def _carried(self, x: Array) -> Array:
        return jnp.full((self.solver.depth, x.shape[0]), UNSET)

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        row, shift = without_shift(row)
        inner, times, chosen = state.history
        t = shift["time"][nearest(pixel_variance(state.x), shift["variance"])]
        times = push(times, t)
        end = jnp.broadcast_to(row["t_next"], t.shape)
        own = self._own(row, times, end, shift["nominal"])
        moved = self.solver.step(predict, State(state.x, state.memory, inner), own, keys)
        chosen = chosen.at[:, shift["index"]].set(t)
        return State(moved.x, moved.memory, (moved.history, times, chosen))

    def _own(self, row: Row, times: Array, end: Array, nominal: Array) -> dict[str, Any]:
        """Returns the row of images with values at `times` [depth, b] and the end `end` [b]."""
        same = jnp.all(times == nominal[:, None], axis=0) & (end == row["t_next"])
        own = self.solver.own(row, list(times), end)
        return {name: _either(same, row[name], value) for name, value in own.items()}


@dataclasses.dataclass(frozen=True)
class ShiftedEnds(ShiftedMultistep):
    """The multistep DPM-Solver released with Time-Shift: a step's end is chosen, by its newest eps.

    The variance is that of the noise estimate just made, not of x. The chosen time is where the
    step ends, and the time of the next evaluation.
    """

    def _carried(self, x: Array) -> tuple[Array, Array]:
        return super()._carried(x), jnp.full((x.shape[0],), UNSET)

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        row, shift = without_shift(row)
        x, (inner, (times, t), chosen) = state.x, state.history
        t = jnp.where(t == UNSET, row["t"], t)
        times = push(times, t)
        end = jnp.broadcast_to(row["t_next"], t.shape)
        here = self._own(row, times, end, shift["nominal"])
        out, memory = predict(x, here, state.memory)
        noise = value_of(here, x, stepped(out))
        end = shift["time"][nearest(pixel_variance(noise), shift["variance"])]
        own = self._own(row, times, end, shift["nominal"])

        def known(x, row, memory):
            return out, memory

        moved = self.solver.step(known, State(x, memory, inner), own, keys)
        chosen = chosen.at[:, shift["index"]].set(end)
        return State(moved.x, moved.memory, (moved.history, (times, end), chosen))


@dataclasses.dataclass(frozen=True)
class Renormalised:
    """A bound solver before each of whose steps every image is brought to the deviation sigma(t).

    The mean is brought along: x sigma(t)/std(x).
    """

    solver: Solver

    def init(self, x: Array, memory: Tree) -> Any:
        """Returns the solver's state before the first step."""
        return self.solver.init(x, memory)

    def step(self, predict: Predict, state: Any, row: Row, keys: Array) -> Any:
        """Returns the state after the step of `row` from the scaled images."""
        x = state.x
        sigma = self.solver.process.sigma(jnp.asarray(row["t"]))
        scale = sigma / jnp.sqrt(pixel_variance(x))
        state = dataclasses.replace(state, x=bcast(scale, x) * x)
        return self.solver.step(predict, state, row, keys)

    def output(self, state: Any) -> Array:
        """Returns the sample of a final state."""
        return self.solver.output(state)

    def measures(self, state: Any) -> dict[str, Array]:
        """Returns what the solver measured."""
        return self.solver.measures(state)


def blank(x: Array, steps: int) -> Array:
    """Returns times [b, steps] that were not chosen yet: not a number."""
    return jnp.full((x.shape[0], steps), jnp.nan, jnp.float32)


def without_shift(row: Row) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Returns the solver's own row, and what Time-Shift put into it."""
    return {k: v for k, v in row.items() if k != "shift"}, row["shift"]


def _either(same: Array, given: Any, own: Any) -> Any:
    """Returns `given` for the images `same` [b], else `own`; unchanged trees stay what they are."""
    if own is given or isinstance(own, Mapping):
        return given
    whole = jnp.broadcast_to(given, jnp.shape(own))
    return jnp.where(bcast(same, whole), whole, own)
