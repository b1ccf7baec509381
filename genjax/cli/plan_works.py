"""What `genjax plan` can plan: a training step, a batch of samples, one step of decoding codes."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.core.tree import size
from genjax.core.types import Player
from genjax.models.parti_cache import AXES_OF, Cache
from genjax.parallel import batch_sharding, flops, replicated, using
from genjax.solvers.decoding import Decoding
from genjax.tasks import Autoregressive, Diffusion
from genjax.tasks.generate import Generator, on_host, whole_batch
from genjax.training.program import PASSES, Program, program
from genjax.training.state import acting

_BATCH = 256  # images at a time, as in `genjax sample`


@dataclasses.dataclass(frozen=True)
class Work:
    """A traced program and what is known of it before it is compiled.

    `batch`: global images a call; `players`: who acts (training); `state`: bytes a device holds, by
    kind; `touched`: bytes of them that a device reads or writes at least; `flops`: the model's a
    call; `calls`: how many an image takes (decoding: one a code).
    """

    what: str
    traced: Any
    mesh: Mesh
    batch: int
    params: int
    state: dict[str, float]
    touched: float
    flops: float
    players: tuple[str, ...] = ()
    calls: int = 1

    @property
    def program_flops(self) -> float:
        """What the traced program computes, recomputation included."""
        return flops.count(self.traced.jaxpr)


def build(run: Any, devices: Sequence[Any]) -> Program:
    """Returns the program that `genjax train` would run on `devices`; allocates nothing."""
    batch = {name: settings.batch for name, settings in run.data.items()}
    mesh = run.mesh.build(devices)
    return program(run.task, run.optimizer, run.ema, run.train, batch, mesh, run.rules)


def usual(players: Sequence[Player]) -> tuple[Player, ...]:
    """Returns the players of the most frequent kind of step, once all have begun."""
    begin = max(player.start for player in players)
    period = math.lcm(*(player.every for player in players))
    kinds: dict[tuple[str, ...], int] = {}
    sets = {}
    for step in range(begin, begin + period):
        now = acting(players, step)
        names = tuple(player.name for player in now)
        kinds[names], sets[names] = kinds.get(names, 0) + 1, now
    return sets[max(kinds, key=lambda names: kinds[names])]


def training(run: Any, devices: Sequence[Any], batch: int | None = None) -> Work:
    """Returns the most frequent kind of step of `genjax train`; its batch is the config's."""
    del batch
    made = build(run, devices)
    frozen = _frozen(run, made.recipe.mesh)
    now = usual(run.task.players)
    state = {
        "parameters": made.abstract.params,
        "optimizer": made.abstract.opt,
        "ema": made.abstract.ema,
        "mutable": made.abstract.mutable,
        "frozen": frozen,
    }
    held = {name: held_bytes(tree) for name, tree in state.items()}
    return Work(
        "train",
        made.step(now).trace(*made.arguments(now, frozen)),
        made.recipe.mesh,
        made.recipe.batch,
        size(made.abstract.params),
        held,
        2 * (sum(held.values()) - held["frozen"]),
        PASSES * run.task.forward_flops() * made.recipe.batch,
        tuple(player.name for player in now),
    )


def sampling(run: Any, devices: Sequence[Any], batch: int | None = None) -> Work:
    """Returns a batch of samples, drawn as sample grids are during training: from sharded weights.

    `batch`: images at a time, rounded up to the devices (None: 256). Raises `UserError` for a task
    that draws no samples.
    """
    task = run.task
    if not isinstance(task, Diffusion | Autoregressive):
        raise UserError("--what sample: this task draws no samples; plan its training")
    if getattr(task.sampler.guidance, "two_networks", False):
        raise UserError("--what sample: guidance by a second network is not planned")
    made = build(run, devices)
    mesh, frozen = made.recipe.mesh, _frozen(run, made.recipe.mesh)
    whole = whole_batch(batch or _BATCH, batch or _BATCH, mesh)
    generator = Generator(task, batch=whole, mesh=mesh, rules=run.rules)
    params = made.abstract.params["model"]
    traced = generator.trace(params, frozen, _condition(run, generator.batch, mesh))
    return _drawn(
        "sample", traced, mesh, generator.batch, params, {"frozen": frozen}, 1, evaluations=task.nfe
    )


def decoding(run: Any, devices: Sequence[Any], batch: int | None = None) -> Work:
    """Returns one step of decoding codes with a cache; see `sampling`."""
    task = run.task
    if not isinstance(task, Autoregressive):
        raise UserError("--what decode: this task draws no codes one by one; plan sample or train")
    made = build(run, devices)
    mesh, rules = made.recipe.mesh, run.rules
    b = whole_batch(batch or _BATCH, batch or _BATCH, mesh)
    params = made.abstract.params["model"]
    cond = _condition(run, b, mesh)

    def begin(params: Tree, cond: Any) -> Decoding:
        with using(mesh, rules):
            return task.begin(params, b, cond)

    def step(params: Tree, state: Decoding, row: Any, seeds: Any) -> Decoding:
        with using(mesh, rules):
            keys = jax.random.wrap_key_data(seeds)
            return task.next_code(params, state, row, keys, conditional=cond is not None)

    def placed(x: Any, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
        where = rules.activation(axes, x.shape, mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    begun = jax.eval_shape(begin, params, cond)
    kept = {
        name: None if (x := getattr(begun.memory, name)) is None else placed(x, axes)
        for name, axes in AXES_OF.items()
    }
    state = Decoding(placed(begun.codes, ("batch", None)), Cache(**kept))  # pyright: ignore[reportArgumentType]
    row = on_host({name: values[0] for name, values in task.rows().items()})
    seeds = jax.eval_shape(lambda: jax.random.key_data(jax.random.split(jax.random.key(0), b)))
    seeds = placed(seeds, ("batch", None))
    where = jax.tree.map(lambda x: x.sharding, state)
    traced = jax.jit(step, donate_argnums=1, out_shardings=where).trace(params, state, row, seeds)
    return _drawn("decode", traced, mesh, b, params, {"cache": state}, task.nfe, evaluations=1)


WORKS: dict[str, Callable[..., Work]] = {
    "train": training,
    "sample": sampling,
    "decode": decoding,
}


def _drawn(
    what: str,
    traced: Any,
    mesh: Mesh,
    batch: int,
    params: Tree,
    beside: Mapping[str, Tree],
    calls: int,
    evaluations: int,
) -> Work:
    """Returns the work of drawing images; nothing is computed twice, so its FLOPs are the model's.

    `evaluations` of the network in the program, of which an image takes `calls` programs; each
    reads what a device holds of the parameters and the cache.
    """
    held = {"parameters": held_bytes(params)} | {k: held_bytes(v) for k, v in beside.items()}
    read = held["parameters"] + held.get("cache", 0.0)
    done = flops.count(traced.jaxpr)
    return Work(what, traced, mesh, batch, size(params), held, evaluations * read, done, (), calls)


def _frozen(run: Any, mesh: Mesh) -> dict[str, Tree]:
    """Returns the shapes of the networks that nobody trains, whole on every device."""
    everywhere = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        run.task.frozen_shapes(),
    )


def _condition(run: Any, batch: int, mesh: Mesh) -> dict[str, Any] | None:
    """Returns the shapes of labels or texts that samples are drawn for, None without any."""
    where = batch_sharding(mesh, run.rules)
    main = next(iter(run.task.streams.values()))
    return {
        name: jax.ShapeDtypeStruct((batch, *main[name].shape), main[name].dtype, sharding=where)
        for name in ("tokens", "label")
        if name in main
    } or None


def held_bytes(tree: Tree) -> float:
    """Returns the bytes of a tree of shapes on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
