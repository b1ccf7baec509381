"""A run's data: its sources opened once, checked against the task, and read from any position."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from genjax.checkpoint import Workdir
from genjax.core.errors import UserError
from genjax.data import Source, open_stream
from genjax.data.report import first_batch as report_first_batch
from genjax.parallel import host_shard


def open_sources(run: Any) -> dict[str, Source]:
    """Returns the opened source of every stream; raises `UserError` where one cannot be read."""
    return {name: settings.source.open() for name, settings in run.data.items()}


def settings_of(run: Any, name: str) -> Any:
    """Returns a stream's settings, reading exactly the fields that the task asks for."""
    settings = run.data[name]
    return dataclasses.replace(settings, fields=tuple(run.task.streams[name]))


def check(run: Any, sources: Mapping[str, Source]) -> None:
    """Raises `UserError` where the data do not have the shapes, levels or classes of the task."""
    for name, fields in run.task.streams.items():
        source, task = sources[name], run.task
        levels = getattr(task, "levels", source.levels)
        if "image" in fields and source.levels != levels:
            raise UserError(
                f"config.task.levels: is {levels}, but the images of {name} have {source.levels} "
                "grey levels; set it to that"
            )
        classes = getattr(task, "num_classes", 0)
        if "label" in fields and not 0 < source.num_classes <= classes:
            raise UserError(
                f"config.task.model.num_classes: is {classes}, but the data of {name} have "
                f"{source.num_classes} classes; set it to that"
            )
        if "tokens" in fields:
            _check_text(run.data[name].text, task, name)
        stream = open_stream(settings_of(run, name), name=name, seed=run.seed, source=source)
        try:
            for field, spec in fields.items():
                shape, _ = stream.spec[field]
                if tuple(shape) != tuple(spec.shape):
                    raise UserError(
                        f"config.data.{name}: {field} is {list(shape)}, but the task trains on "
                        f"{list(spec.shape)}; set data.{name}.image_size or channels, or task.image"
                    )
        finally:
            stream.close()


def _check_text(text: Any, task: Any, name: str) -> None:
    if text is None:
        raise UserError(
            f"config.data.{name}.text: must be given, the task trains on texts; name the "
            "model that `genjax prepare captions` wrote"
        )
    size = text.open().size
    if size > task.model.vocab:
        raise UserError(
            f"config.task.model.vocab: is {task.model.vocab}, but {text.model} of data.{name} has "
            f"{size} ids; set it to that at least"
        )


def first_batch(run: Any, sources: Mapping[str, Source], workdir: Workdir) -> None:
    """Writes pictures and numbers of each stream's first batch to first_batch/; prints warnings."""
    for name, source in sources.items():
        settings = settings_of(run, name)
        if settings.text is not None and "caption" not in settings.fields:  # to be looked at
            settings = dataclasses.replace(settings, fields=(*settings.fields, "caption"))
        stream = open_stream(settings, name=name, seed=run.seed, source=source)
        try:
            warnings = report_first_batch(
                next(stream),
                workdir.url("first_batch", name),
                class_names=source.class_names,
                levels=source.levels,
                num_classes=source.num_classes,
            )
        finally:
            stream.close()
        for warning in warnings:
            print(f"warning: {name}: {warning}")


def opener(
    run: Any, sources: Mapping[str, Source], mesh: Mesh
) -> Callable[[dict[str, int]], dict[str, Iterator]]:
    """Returns the function that opens all streams at given positions (images already read)."""

    def open_at(read: dict[str, int]) -> dict[str, Iterator]:
        index, count = host_shard(mesh, run.rules)
        return {
            name: open_stream(
                settings_of(run, name),
                name=name,
                seed=run.seed,
                start=start,
                process_index=index,
                process_count=count,
                source=sources[name],
            )
            for name, start in read.items()
        }

    return open_at
