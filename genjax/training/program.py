"""What a run compiles: its state, its players' steps and the arrays that they take, as shapes.

`training.loop` runs it on the devices that are there; `genjax plan` compiles it for others. Both
build it here, so that what is planned is what is trained.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genjax.core.errors import UserError
from genjax.core.types import Player, Task, TrainState
from genjax.parallel import Rules, batch_parts, batch_sharding, check_batch
from genjax.training.settings import TrainSettings
from genjax.training.state import planned, transforms
from genjax.training.step import Recipe, make_step

# A training step costs three forward passes: one forward, two backward.
PASSES = 3


@dataclasses.dataclass(frozen=True)
class Program:
    """The training program of one task on one mesh.

    `batch`: stream -> global batch size; `abstract`: shapes and shardings of the state; `init`:
    seed -> state, compiled; `recipe`: what all steps have in common.
    """

    task: Task
    batch: Mapping[str, int]
    abstract: TrainState
    init: Callable[[Any], TrainState]
    recipe: Recipe

    def step(self, now: tuple[Player, ...]):
        """Returns the jitted step in which the players `now` act (see `make_step`)."""
        return make_step(self.recipe, now)

    def rows(self, now: tuple[Player, ...]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Returns the shapes of the global batches that such a step reads: stream -> field.

        They say how the batch is sharded too: only then is a trace the one that training uses.
        """
        sharding = batch_sharding(self.recipe.mesh, self.recipe.rules)
        return {
            name: {
                field: jax.ShapeDtypeStruct(
                    (self.batch[name], *spec.shape), spec.dtype, sharding=sharding
                )
                for field, spec in self.task.streams[name].items()
            }
            for name in streams_read(self.task, now)
        }

    def arguments(self, now: tuple[Player, ...], frozen: dict) -> tuple:
        """Returns all arguments of that step as shapes; `frozen` may hold arrays or shapes."""
        scalar = jax.ShapeDtypeStruct((), np.uint32)
        return self.abstract, frozen, self.rows(now), scalar, scalar


def program(
    task: Task,
    optimizers: Mapping[str, Any],
    emas: Mapping[str, Any],
    settings: TrainSettings,
    batch: Mapping[str, int],
    mesh: Mesh,
    rules: Rules,
) -> Program:
    """Returns the program; raises `UserError` where batch, mesh and networks do not fit.

    `optimizers`: by player (or as players name them); `emas`: name -> decay law. Nothing is
    allocated.
    """
    _check_batches(task, settings, batch, mesh, rules)
    size = batch[next(iter(task.streams))]
    build = partial(transforms, task.players, optimizers, batch=size, total_images=settings.images)
    abstract, init, tx = planned(task, build, tuple(emas), settings.ema_networks, mesh, rules)
    recipe = Recipe(
        players=task.players,
        transforms=tx,
        emas=emas,
        batch=size,
        accumulate=settings.accumulate,
        mesh=mesh,
        rules=rules,
        shardings=jax.tree.map(lambda x: x.sharding, abstract),
        compiler=settings.compiler,
    )
    return Program(task, batch, abstract, init, recipe)


def streams_read(task: Task, now: Sequence[Player]) -> list[str]:
    """Returns the streams of a step in which `now` act: theirs, and always the main one."""
    main, *rest = task.streams
    named = {name for player in now for name in player.streams}
    return [main, *(name for name in rest if name in named)]


def _check_batches(
    task: Task, settings: TrainSettings, batch: Mapping[str, int], mesh: Mesh, rules: Rules
) -> None:
    """Raises `UserError` naming a stream whose batch does not split over mesh and micro-batches."""
    n, parts = settings.accumulate, batch_parts(mesh, rules)
    for name in task.streams:
        key = f"config.data.{name}.batch"
        if name not in batch:
            raise UserError(f"{key}: the task reads this stream, so its batch size must be given")
        check_batch(batch[name], mesh, rules, key)
        if batch[name] % (n * parts):
            raise UserError(
                f"{key}={batch[name]} does not split into config.train.accumulate={n} "
                f"micro-batches over {parts} parts of the mesh; choose a multiple of {n * parts}"
            )
