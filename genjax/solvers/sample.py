"""The one sampling function, its noise, and grids padded to a common length."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array, Tree
from genjax.solvers.base import Predict, Row


class SolverLike(Protocol):
    """What `sample` needs: `genjax.solvers.base.Solver`, or anything with these methods."""

    def init(self, x: Array, memory: Tree) -> Any: ...

    def step(self, predict: Predict, state: Any, row: Row, keys: Array) -> Any: ...

    def output(self, state: Any) -> Array: ...


def noise(keys: Array, shape: tuple[int, ...], std: float | Array = 1.0) -> Array:
    """Returns the samples' start, std N(0, 1): [b, *shape] float32, image i from keys[i].

    The same keys may be handed on to `sample`: the two never share random numbers.
    """
    starts = jax.vmap(lambda k: keys_lib.fold(k, "noise"))(keys)
    return std * keys_lib.normal(starts, shape)


def pad(rows: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Returns the rows (host arrays) padded to n, with an `active` flag.

    Padded rows change nothing and evaluate nothing, so one compiled sampler serves every number of
    steps up to n.
    """
    count = len(rows["t"])
    if count > n:
        raise ValueError(f"cannot pad {count} rows to {n}")
    padded = jax.tree.map(
        lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], n - count, axis=0)]), dict(rows)
    )
    return {**padded, "active": np.arange(n) < count}


def sample(
    solver: SolverLike,
    predict: Predict,
    rows: Mapping[str, Any],
    x: Array,
    keys: Array,
    memory: Tree | Callable[[Array], Tree] = (),
) -> Array:
    """Returns the data that `solver` makes of the noise `x` [b, ...]; float32 for float32 noise.

    `rows`: a dict (nested, for network inputs) whose leaves have the steps as leading axis, from
    `solver.rows(grid)` and, with guidance, `guidance.rows(process, rows)`. Passed as an argument of
    a jitted function, other values of the same length never compile again. `keys` [b]: one random
    key per image; step i uses the key folded with i, so that an image depends on its own key alone.
    `memory`: what guidance starts to remember, or a function that makes it from `x`.
    """
    return solver.output(solve(solver, predict, rows, x, keys, memory))


def solve(
    solver: SolverLike,
    predict: Predict,
    rows: Mapping[str, Any],
    x: Array,
    keys: Array,
    memory: Tree | Callable[[Array], Tree] = (),
) -> Any:
    """Returns the solver's state after all rows; `sample` is its output, `measures` its cost."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows = jax.tree.map(lambda leaf: _cast(leaf, dtype), dict(rows))
    state = solver.init(x, memory(x) if callable(memory) else memory)

    def body(state, item):
        i, row = item
        active = row.pop("active", None)

        def step(state):
            return solver.step(predict, state, row, keys_lib.fold_each(keys, i))

        if active is None:
            return step(state), None
        return jax.lax.cond(active, step, lambda state: state, state), None

    steps = jnp.arange(len(rows["t"]), dtype=jnp.uint32)
    state, _ = jax.lax.scan(body, state, (steps, rows))
    return state


def _cast(leaf, dtype) -> Array:
    """Returns the leaf on the device: real numbers in `dtype`, integers and flags as they are."""
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return jnp.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else None)
