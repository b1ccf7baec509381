"""The schema of a run: every key that a config may set, with its type, default and meaning.

`configs/base.py` hands these defaults to config files; `genjax train --help-config` prints them.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from genjax.core.errors import UserError
from genjax.core.registry import choice, choices, construct, expand, fields_of, option
from genjax.data import StreamSettings
from genjax.parallel import MeshSpec, Rules
from genjax.tasks import TASKS
from genjax.training import (
    EMAS,
    OPTIMIZERS,
    CheckpointSettings,
    EvaluationSettings,
    HeldoutSettings,
    LogSettings,
    SampleSettings,
    TrainSettings,
)


@dataclasses.dataclass(frozen=True)
class Target:
    """The published number that the run aims at, and how it was measured."""

    dataset: str = option("", "data set and resolution")
    metric: str = option("", "metric and number of samples, as `genjax eval` names it")
    value: float | None = option(None, "the published value")
    nfe: int | None = option(None, "network evaluations a sample")
    guidance: float | None = option(None, "guidance weight (1: none)")
    protocol: str = option("", "sampler, EMA, decoder, reference statistics")
    source: str = option("", "paper and table")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of `genjax train`, and all that sampling and evaluation later need to know."""

    seed: int = option(0, "seed of initialisation, data order, noise and times")
    task: Any = choice(TASKS, {"name": "diffusion"}, "what is trained, and how it is sampled")
    data: dict[str, StreamSettings] = option(
        {"main": {}}, "the streams of a batch; the images of the first are counted as progress"
    )
    train: TrainSettings = option(TrainSettings(), "length and accumulation of training")
    optimizer: dict[str, Any] = choices(
        OPTIMIZERS, {"model": {"name": "adamw"}}, "the optimiser of every player"
    )
    ema: dict[str, Any] = choices(EMAS, {}, "averages of the weights, by name; the first samples")
    mesh: MeshSpec = option(MeshSpec(), "how many devices an axis of the mesh has")
    rules: Rules = option(Rules(), "which mesh axes split which logical axis")
    init: dict[str, str] = option({}, "network -> workdir or FORMAT:FILE it starts from")
    checkpoint: CheckpointSettings = option(CheckpointSettings(), "what is kept, how often")
    log: LogSettings = option(LogSettings(), "metrics, TensorBoard, W&B and traces")
    samples: SampleSettings = option(SampleSettings(), "sample grids during training")
    heldout: HeldoutSettings = option(HeldoutSettings(), "loss on held-out data in training")
    evaluation: EvaluationSettings = option(
        EvaluationSettings(), "metrics of samples during training"
    )
    target: Target = option(Target(), "the published number to reach")


def expand_run(config: Mapping) -> dict:
    """Returns the config with every key of `Run`, checked; raises `UserError` naming the key."""
    return expand(Run, config, "config")


def build_run(full: Mapping) -> Run:
    """Returns the run, its choices constructed and its parts checked against each other."""
    run = construct(Run, full)
    streams = run.task.streams
    if set(run.data) != set(streams):
        raise UserError(
            f"config.data: the task reads the streams {sorted(streams)}, the config gives "
            f"{sorted(run.data)}"
        )
    players = {p.optimizer or p.name for p in run.task.players}
    if set(run.optimizer) != players:
        raise UserError(
            f"config.optimizer: the task's players are {sorted(players)}, the config gives "
            f"{sorted(run.optimizer)}"
        )
    networks = {n for p in run.task.players for n in p.trains} | set(
        getattr(run.task, "resting", ())
    )
    for name in run.init:
        if name not in networks:
            raise UserError(f"config.init.{name}: no such network; known: {sorted(networks)}")
    return run


def describe(cls: type = Run, prefix: str = "config") -> list[str]:
    """Returns a line `key = default  meaning` for every key, choices with their fields."""
    lines = []
    for key, (field, hint) in fields_of(cls).items():
        where, registry = f"{prefix}.{key}", field.metadata.get("registry")
        default = _default(field)
        lines.append(f"{where} = {default!r}  # {field.metadata.get('doc', '')}")
        if registry is not None:
            inner = f"{where}.<name>" if field.metadata.get("many") else where
            for name, entry in registry.entries.items():
                lines.append(f"{inner}.name = {name!r}  # {_first_line(entry)}")
                lines += describe(entry, inner)
        elif dataclasses.is_dataclass(default):
            lines += describe(type(default), where)
        elif (section := _section_of(hint)) is not None:
            lines += describe(section, f"{where}.<name>")
    return lines


def _section_of(hint: Any) -> type | None:
    """Returns the dataclass D of a key that holds `dict[str, D]`, None for any other."""
    args = typing.get_args(hint)
    return args[1] if len(args) == 2 and dataclasses.is_dataclass(args[1]) else None  # pyright: ignore[reportReturnType]


def _default(field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)"


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]
