"""One optimiser step: one compiled, donated function for every set of acting players.

Which players act is known on the host (`Player.acts`), so a resting player costs nothing and
nothing of it moves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.core import keys
from genjax.core.arrays import Array, Tree
from genjax.core.tree import by_rules
from genjax.core.types import Aux, Player, Progress, TrainState, View, pytree
from genjax.parallel import Rules, batch_parts, batch_sharding, options_for, replicated, using
from genjax.training import guard
from genjax.training.ema import update as update_ema
from genjax.training.state import optimizer_of


@pytree
class Report:
    """What a step tells: metrics as (sum, count), and per player what `guard.first_bad` found."""

    metrics: dict[str, tuple[Array, Array]]
    bad: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all steps of a run have in common.

    `players`: all of them; `transforms`: optimiser name -> transformation; `emas`: name -> decay
    law; `batch`: global images of the main stream a step; `shardings`: those of the state;
    `compiler`: options of XLA's compiler.
    """

    players: tuple[Player, ...]
    transforms: Mapping[str, optax.GradientTransformation]
    emas: Mapping[str, Any]
    batch: int
    accumulate: int
    mesh: Mesh
    rules: Rules
    shardings: TrainState
    compiler: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_step(recipe: Recipe, players: tuple[Player, ...]):
    """Returns the jitted `step(state, frozen, batch, seed, total_images) -> (state, Report)`.

    `players` act, in their order. `state` is donated. `batch`: stream -> field -> [b, ...], spread
    over the mesh; `seed` and `total_images` are uint32 scalars, so that neither recompiles.
    """

    def step(state: TrainState, frozen: dict, batch: dict, seed: Array, total_images: Array):
        with using(recipe.mesh, recipe.rules):
            count = state.step.astype(jnp.uint32)  # int32 images would end at 2.1 billion
            progress = Progress(state.step, count * jnp.uint32(recipe.batch), total_images)
            report = Report({}, {})
            for player in players:
                key = keys.key(seed, f"train/{player.name}", state.step)  # pyright: ignore
                streams = {name: batch[name] for name in player.streams}
                state, found = _act(recipe, player, state, frozen, streams, key, progress)
                report = Report(report.metrics | found.metrics, report.bad | found.bad)
            ema = _average(recipe, players, state, count)
            state = dataclasses.replace(state, step=state.step + 1, ema=ema)
        return state, report

    out = (recipe.shardings, replicated(recipe.mesh))
    options = options_for(recipe.mesh, recipe.compiler) or None
    return jax.jit(step, donate_argnums=0, out_shardings=out, compiler_options=options)


def _act(
    recipe: Recipe,
    player: Player,
    state: TrainState,
    frozen: dict[str, Tree],
    batch: dict[str, dict[str, Array]],
    key: Array,
    progress: Progress,
) -> tuple[TrainState, Report]:
    """Returns the state after one player's update, and its report."""
    trained = {net: state.params[net] for net in player.trains}
    others = {net: tree for net, tree in state.params.items() if net not in trained}
    view = View(others, state.mutable, state.ema, frozen)
    grads, loss, aux = _gradients(recipe, player, trained, view, batch, key, progress)
    sums = guard.squares(grads)
    bad = guard.first_bad(batch, trained, state.mutable, loss, sums)
    norm = jnp.sqrt(sum(sums.values(), jnp.float32(0)))
    if player.multipliers:
        factors = by_rules(
            grads, (*player.multipliers, (".*", 1.0)), f"multipliers of {player.name}"
        )
        grads = jax.tree.map(lambda g, f: g * jnp.asarray(f, g.dtype), grads, factors)
    name = optimizer_of(player)
    updates, opt = recipe.transforms[name].update(grads, state.opt[name], trained)
    trained: Any = optax.apply_updates(trained, updates)
    mutable = {**state.mutable, **aux.mutable}
    if player.revise is not None:
        trained, mutable = player.revise(trained, mutable)
    if player.project is not None:
        trained = player.project(trained)
    prefix = "" if len(recipe.players) == 1 else f"{player.name}/"
    metrics = {prefix + k: v for k, v in aux.metrics.items()}
    metrics[prefix + "grad_norm"] = (norm, jnp.ones(()))
    new = dataclasses.replace(
        state,
        params={**state.params, **trained},
        mutable=mutable,
        opt={**state.opt, name: opt},
    )
    return new, Report(metrics, {player.name: bad})


def _gradients(
    recipe: Recipe,
    player: Player,
    trained: dict[str, Tree],
    view: View,
    batch: dict[str, dict[str, Array]],
    key: Array,
    progress: Progress,
) -> tuple[dict[str, Tree], Array, Aux]:
    """Returns gradients (float32), loss and `Aux` of the whole batch, in micro-batches or at once.

    The loss of a micro-batch counts as often as its metric "loss" says (once, without one), so
    that what a mask leaves out weighs nothing; sums and counts are added and divided once.
    """

    def one(mutable: dict, rows: dict, key: Array):
        def loss_of(trained):
            seen = dataclasses.replace(view, mutable=mutable)
            loss, aux = player.objective(trained, seen, rows, key, progress)
            weight = aux.metrics["loss"][1] if "loss" in aux.metrics else 1.0
            aux = dataclasses.replace(aux, mutable={**mutable, **aux.mutable}, artifacts={})
            return loss, (jnp.asarray(weight, jnp.float32), aux)

        (loss, (weight, aux)), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        return grads, loss.astype(jnp.float32), weight, aux

    if recipe.accumulate == 1:
        grads, loss, weight, aux = one(view.mutable, batch, key)
        return grads, loss, _with_loss(aux, loss, weight)

    def body(carry, xs):
        grads, loss, weight, aux = carry
        index, rows = xs
        g, value, w, new = one(aux.mutable, rows, jax.random.fold_in(key, index))
        grads = jax.tree.map(lambda a, b: a + w * b.astype(jnp.float32), grads, g)
        grads = _as_parameters(recipe, grads)
        metrics = jax.tree.map(jnp.add, aux.metrics, new.metrics)
        return (grads, loss + w * value, weight + w, Aux(metrics, new.mutable)), None

    n = recipe.accumulate
    micro = jax.tree.map(lambda x: _split(recipe, x), batch)
    first = jax.tree.map(lambda x: x[0], micro)
    aux = jax.eval_shape(one, view.mutable, first, key)[3]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), aux.metrics)
    start = (
        _as_parameters(recipe, jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained)),
        jnp.zeros(()),
        jnp.zeros(()),
        Aux(zeros, view.mutable),
    )
    (grads, loss, weight, aux), _ = jax.lax.scan(body, start, (jnp.arange(n), micro))
    grads = jax.tree.map(lambda g: g / weight, grads)
    return grads, loss / weight, _with_loss(aux, loss / weight, weight)


def _with_loss(aux: Aux, loss: Array, weight: Array) -> Aux:
    return dataclasses.replace(aux, metrics={"loss": (loss * weight, weight), **aux.metrics})


def _as_parameters(recipe: Recipe, grads: dict[str, Tree]) -> dict[str, Tree]:
    """Returns the gradients, sharded as their parameters are."""
    where = {net: recipe.shardings.params[net] for net in grads}
    return jax.lax.with_sharding_constraint(grads, where)


def _split(recipe: Recipe, x: Array) -> Array:
    """Returns [b, ...] as [n, b / n, ...], every micro-batch spread as the batch was.

    Each device gives a part of its own rows to each micro-batch, so no row travels.
    """
    n, parts = recipe.accumulate, batch_parts(recipe.mesh, recipe.rules)
    rest = x.shape[1:]
    x = x.reshape(parts, n, x.shape[0] // (parts * n), *rest).swapaxes(0, 1)
    x = x.reshape(n, -1, *rest)
    spec = PartitionSpec(None, *batch_sharding(recipe.mesh, recipe.rules).spec)
    return jax.lax.with_sharding_constraint(x, NamedSharding(recipe.mesh, spec))


def _average(
    recipe: Recipe, players: tuple[Player, ...], state: TrainState, count: Array
) -> dict[str, dict[str, Tree]]:
    """Returns the EMAs after a step: those of networks that were trained in it, once each.

    A network that is trained every k-th step moves over the images of k steps at once.
    """
    moved = {net for player in players for net in player.trains}
    after = (count + 1) * jnp.uint32(recipe.batch)
    out = {}
    for name, law in recipe.emas.items():
        out[name] = dict(state.ema[name])
        for net in state.ema[name].keys() & moved:
            every = min(p.every for p in recipe.players if net in p.trains)
            passed = jnp.minimum(count + 1, jnp.uint32(every)) * jnp.uint32(recipe.batch)
            decay = law(after - passed, after)
            out[name][net] = update_ema(state.ema[name][net], state.params[net], decay)
    return out
