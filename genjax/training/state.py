"""The training state: born sharded, and what of each stream was read at a given step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.linen import meta
from jax.sharding import Mesh

from genjax.core import keys
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.types import Player, Task, TrainState
from genjax.parallel import Rules, state_shardings, using


def unboxed(tree: Tree) -> Tree:
    """Returns the tree without Flax's boxes of axis names, adding no sharding constraints."""
    boxed = lambda x: isinstance(x, meta.Partitioned)  # noqa: E731
    return jax.tree.map(lambda x: x.value if boxed(x) else x, tree, is_leaf=boxed)


def optimizer_of(player: Player) -> str:
    """Returns the name of the player's optimiser."""
    return player.optimizer or player.name


def transforms(
    players: Sequence[Player],
    optimizers: Mapping[str, Any],
    params: Mapping[str, Tree],
    batch: int,
    total_images: int,
) -> dict[str, optax.GradientTransformation]:
    """Returns optimiser name -> transformation, over {network: tree} of what its players train.

    `params` are abstract. An optimiser counts its own updates, so it is built with the images
    that pass between two of them: `batch` images a step, fewer or more where players rest or
    share it. Raises `UserError` for an optimiser that is missing, or shared over other networks.
    """
    users: dict[str, list[Player]] = {}
    for player in players:
        users.setdefault(optimizer_of(player), []).append(player)
    out = {}
    for name, sharing in users.items():
        if name not in optimizers:
            raise UserError(f"config.optimizer.{name}: this player's optimiser must be given")
        trains = sharing[0].trains
        if any(p.trains != trains for p in sharing):
            raise UserError(f"config.optimizer.{name}: its players train different networks")
        between = batch / sum(1 / p.every for p in sharing)
        trained = {net: params[net] for net in trains}
        out[name] = optimizers[name].build(trained, round(between), total_images)
    return out


# A kernel for every shape of parameter: LLVM takes 12 s instead of 30 over a U-Net's, and what it
# makes is as fast.
_RUN_ONCE = {"cpu": {"xla_backend_optimization_level": 1}}


def _new(
    task: Task,
    tx: Mapping[str, optax.GradientTransformation],
    emas: Sequence[str],
    averaged: Sequence[str],
    seed: Array,
) -> TrainState:
    """Returns the state before the first step, its arrays still in boxes."""
    made = task.init(keys.key(seed, "init"))  # pyright: ignore[reportArgumentType]
    params = made["params"]
    opt = {}
    for player in task.players:
        name = optimizer_of(player)
        opt[name] = tx[name].init({net: params[net] for net in player.trains})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        mutable=made["mutable"],
        opt=opt,
        ema={name: float32({net: params[net] for net in averaged}) for name in emas},
    )


def float32(params: Tree) -> Tree:
    """Returns a copy in float32, as EMAs are kept; it shares no buffer with `params`."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)


def planned(
    task: Task,
    make: Callable[[Mapping[str, Tree]], Mapping[str, optax.GradientTransformation]],
    emas: Sequence[str],
    averaged: Sequence[str],
    mesh: Mesh,
    rules: Rules,
) -> tuple[TrainState, Callable[[Any], TrainState], dict[str, optax.GradientTransformation]]:
    """Returns (abstract state with shardings, compiled init: seed -> state, transformations).

    `make` gives the transformations for abstract parameters. `averaged`: the networks that have
    EMAs (empty: all). No parameter ever exists unsharded. Raises `UserError` naming the parameter
    that cannot be sharded, or the network that is unknown.
    """
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    with using(mesh, rules):
        networks = unboxed(jax.eval_shape(lambda s: task.init(keys.key(s, "init")), seed))["params"]
        unknown = sorted(set(averaged) - set(networks))
        if unknown:
            raise UserError(
                f"config.train.ema_networks: no network {unknown[0]!r}; known: {sorted(networks)}"
            )
        tx = dict(make(networks))
        new = partial(_new, task, tx, tuple(emas), tuple(averaged) or tuple(networks))
        boxed = jax.eval_shape(new, seed)
    shardings = state_shardings(boxed, mesh, rules)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), unboxed(boxed), shardings
    )

    def init(seed: Array) -> TrainState:
        with using(mesh, rules):
            return unboxed(new(seed))

    options = _RUN_ONCE.get(mesh.devices.flat[0].platform)
    return abstract, jax.jit(init, out_shardings=shardings, compiler_options=options), tx


def restart(state: TrainState, params: Mapping[str, Tree]) -> TrainState:
    """Returns the state with some networks' parameters replaced, and their EMAs begun anew.

    `params`: network -> tree of the state's shapes, dtypes and structure; NumPy arrays, or JAX
    arrays that lie as the state's do.
    """
    new = {
        net: jax.tree.map(lambda x, old: place(x, old.sharding), params[net], state.params[net])
        for net in params
    }
    ema = {
        name: {net: _averaged(new[net], tree) if net in new else tree for net, tree in nets.items()}
        for name, nets in state.ema.items()
    }
    return TrainState(state.step, {**state.params, **new}, state.mutable, state.opt, ema)


def _averaged(params: Tree, ema: Tree) -> Tree:
    """Returns the parameters as an EMA that begins with them, spread as `ema` is."""
    return jax.jit(float32, out_shardings=jax.tree.map(lambda x: x.sharding, ema))(params)


def place(x: Any, sharding) -> jax.Array:
    """Returns a global array from a value that every process holds whole, or has placed so."""
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x  # of several processes none may hold it whole
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def place_frozen(frozen: Mapping[str, Tree], mesh: Mesh, rules: Rules) -> dict[str, Tree]:
    """Returns the networks that nobody trains on the mesh, sharded where they name their axes."""
    shardings = state_shardings(frozen, mesh, rules)
    return jax.tree.map(place, unboxed(dict(frozen)), shardings)


def acting(players: Sequence[Player], step: int) -> tuple[Player, ...]:
    """Returns the players that update in step `step`, in their order."""
    return tuple(p for p in players if p.acts(step))


def consumed(players: Sequence[Player], stream: str, main: bool, steps: int) -> int:
    """Returns how many batches of a stream the first `steps` steps read.

    The main stream is read in every step, for its images are counted; any other one only in steps
    in which a player acts that names it.
    """
    if main:
        return steps
    index = np.arange(steps)
    read = np.zeros(steps, bool)
    for p in players:
        if stream in p.streams:
            read |= (index >= p.start) & ((index - p.start) % p.every == 0)
    return int(read.sum())
