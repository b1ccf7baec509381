"""The types that the rooms of genjax meet at. Nothing here computes.

Conventions: `t` grows with noise and t = 0 is data; images are [b, h, w, c]; times are float32
[b] or scalars; `cond` is a dict of arrays or None.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, dataclass_transform

import jax

from genjax.core.arrays import Array, Tree


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def pytree(cls):
    """Class decorator: a frozen dataclass that JAX treats as a pytree of all its fields."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@pytree
class Times:
    """Times drawn for one batch: `t` [b], the adjacent `t_prev` [b] or None, `weight` [b] or None.

    `weight` corrects for sampling t from another law than the loss is defined with; None is 1.
    """

    t: Array
    t_prev: Array | None = None
    weight: Array | None = None


@pytree
class Prediction:
    """What a solver learns from one (guided) evaluation.

    `x0`: the estimate of the data; `x0_null`: the same without condition, where guidance computed
    it; `x0_noise`: the estimate whose noise a solver puts back, where that is not x0 (CFG++);
    `variance`: the reverse variance's raw interpolation weight of learned-range networks;
    `features`: named intermediate features.
    """

    x0: Array
    x0_null: Array | None = None
    x0_noise: Array | None = None
    variance: Array | None = None
    features: dict[str, Array] | None = None


@pytree
class Aux:
    """What an objective reports beside its loss.

    `metrics`: name -> (sum, count), so that accumulation and masks stay exact;
    `mutable`: network name -> new mutable collections; `artifacts`: arrays for hooks to look at.
    """

    metrics: dict[str, tuple[Array, Array]] = dataclasses.field(default_factory=dict)
    mutable: dict[str, Tree] = dataclasses.field(default_factory=dict)
    artifacts: dict[str, Array] = dataclasses.field(default_factory=dict)


@pytree
class Progress:
    """How far training is: optimiser steps done, images seen, images in total."""

    step: Array | int
    images: Array | int
    total_images: Array | int


@pytree
class View:
    """What an objective may read but does not train.

    `params`: the networks of the other players; `mutable`: collections of all networks;
    `ema`: EMA name -> network -> parameters; `frozen`: networks that nobody trains.
    """

    params: dict[str, Tree]
    mutable: dict[str, Tree]
    ema: dict[str, dict[str, Tree]]
    frozen: dict[str, Tree]


@pytree
class TrainState:
    """Everything that training changes. Random keys are folded from the seed and never stored.

    `step`: int32 optimiser steps; `params`: network -> tree; `mutable`: network -> collections;
    `opt`: optimiser name -> optax state; `ema`: EMA name -> network -> tree (float32).
    """

    step: Array
    params: dict[str, Tree]
    mutable: dict[str, Tree]
    opt: dict[str, Tree]
    ema: dict[str, dict[str, Tree]]


Objective = Callable[[dict[str, Tree], View, Mapping, Array, Progress], tuple[Array, Aux]]


@dataclasses.dataclass(frozen=True)
class Player:
    """One optimised party of a run (a GAN has two, a diffusion model one).

    It trains the networks `trains` with `objective` on the batch's `streams`, every `every` steps
    from step `start` on, with the optimiser called `optimizer` ("" is the player's own name).
    A resting player's update is not called at all: Adam moves on zero gradients too.
    `multipliers` scales gradients by the first regex that matches the parameter's path.
    `project` maps the trained parameters after each update (weight normalisation, say); before it,
    `revise` maps them together with all mutable collections (dead codes revived, say).
    """

    name: str
    trains: tuple[str, ...]
    objective: Objective
    streams: tuple[str, ...] = ("main",)
    every: int = 1
    start: int = 0
    optimizer: str = ""
    multipliers: tuple[tuple[str, float], ...] = ()
    project: Callable[[dict[str, Tree]], dict[str, Tree]] | None = None
    revise: (
        Callable[[dict[str, Tree], dict[str, Tree]], tuple[dict[str, Tree], dict[str, Tree]]] | None
    ) = None

    def acts(self, step: int) -> bool:
        """Says whether the player updates in (host) step `step`, counted from 0."""
        return step >= self.start and (step - self.start) % self.every == 0


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape (without the batch axis), dtype and logical axis names of one array of a stream."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    axes: tuple[str | None, ...] = ()


class Task(Protocol):
    """What one family of papers trains and samples; the only thing that a config names.

    Methods are pure; `init` may be traced. Network trees returned by `init` carry logical axis
    names (Flax `LogicallyPartitioned` boxes); everywhere else parameters are plain arrays.
    """

    @property
    def players(self) -> tuple[Player, ...]: ...

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        """Stream name -> field -> spec; the first stream is the one whose images are counted."""
        ...

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        """Returns {"params": {network: tree}, "mutable": {network: tree}}."""
        ...

    def load_frozen(self) -> dict[str, Tree]:
        """Returns the networks that nobody trains, read from the files the config names."""
        ...

    def frozen_shapes(self) -> dict[str, Tree]:
        """Returns the shapes of what `load_frozen` returns, for plans of absent machines."""
        ...

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        """Returns the metrics of a batch at fixed noise and times, without dropout."""
        ...

    def forward_flops(self) -> float:
        """Returns the floating-point operations (2 x MAC) of one forward pass of one image."""
        ...
