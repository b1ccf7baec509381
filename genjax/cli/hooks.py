"""What `genjax train` does beside the steps: sample grids, held-out loss and metrics of samples."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genjax.cli import reconstruct
from genjax.cli.streams import settings_of
from genjax.core.errors import UserError
from genjax.data import Source, open_stream
from genjax.data.report import grid_png
from genjax.parallel import check_batch, host_shard
from genjax.tasks import Autoregressive, Diffusion, Enlarger, Tokenizer
from genjax.tasks.generate import Generator, labels_for, whole_batch
from genjax.training.hooks import Hook, heldout, samples


def of(
    run: Any, config: Mapping[str, Any], mesh: Mesh, sources: Mapping[str, Source]
) -> tuple[Hook, ...]:
    """Returns the hooks that the config asks for; `config` is what `run` was built from."""
    found = []
    if run.samples.every_images and isinstance(run.task, Diffusion | Autoregressive):
        found.append(_samples(run, mesh, sources["main"]))
    if run.samples.every_images and isinstance(run.task, Tokenizer | Enlarger):
        found.append(reconstruct.hook(run, mesh, sources))
    if run.heldout.every_images:
        found.append(_heldout(run, mesh))
    if run.evaluation.every_images:
        from genjax.cli import evaluation_hook  # here, for it imports the feature networks

        found.append(evaluation_hook.hook(run, config, mesh))
    return tuple(found)


def _samples(run: Any, mesh: Mesh, source: Source) -> Hook:
    """Returns the hook of sample grids: every class in turn, or the source's first captions."""
    settings, task = run.samples, run.task
    if isinstance(task, Autoregressive) and not task.codec.path:
        raise UserError(
            "config.task.codec.path: sample grids need the tokenizer that turns codes into images; "
            "give it, or set samples.every_images to 0"
        )
    text, captions, given = run.data["main"].text, None, {}
    if text is not None and "tokens" in task.streams["main"]:
        captions = [first_caption(source, i % len(source)) for i in range(settings.num)]
        given = {"tokens": text.open().encode_batch(captions)}
    labels = labels_for(settings.num, None, task.num_classes)
    batch = whole_batch(settings.num, settings.num, mesh)
    generator = Generator(task, batch=batch, mesh=mesh, rules=run.rules)

    def draw(params, frozen) -> np.ndarray:
        drawn = generator(
            params["model"],
            frozen,
            num=settings.num,
            labels=labels,
            seed=settings.seed,
            given=given,
        )
        images = np.concatenate([images for images, _ in drawn])
        if generator.problem and not jax.process_index():
            print(f"warning: samples: {generator.problem}", file=sys.stderr, flush=True)
        return images

    def picture(images: np.ndarray, title: str) -> bytes:
        return grid_png(
            images, columns=settings.columns, labels=names, captions=captions, title=title
        )

    names, class_names = None, source.class_names
    if labels is not None:
        names = [class_names[k] if k < len(class_names) else str(k) for k in labels]
    return samples(settings, draw, picture)


def first_caption(source: Source, i: int) -> str:
    """Returns the first caption of element i; raises `UserError` where it has none."""
    caption = source.caption(i)
    if caption is None:
        raise UserError("config.data.main: the source has no captions; choose one that has")
    return str(caption).split("\n")[0]


def _heldout(run: Any, mesh: Mesh) -> Hook:
    settings = run.heldout
    check_batch(settings.batch, mesh, run.rules, "config.heldout.batch")
    stream = dataclasses.replace(settings_of(run, "main"), batch=settings.batch, flip=False)
    if not any(field.name == "split" for field in dataclasses.fields(stream.source)):
        raise UserError(
            "config.heldout: this source has no splits; set heldout.every_images to 0, or "
            "prepare the data with a held-out part"
        )
    try:
        held_out = dataclasses.replace(stream.source, split=settings.split)
    except ValueError as error:
        raise UserError(f"config.heldout.split: {error}") from error
    stream = dataclasses.replace(stream, source=held_out)
    source = held_out.open()

    def batches() -> Iterator[dict[str, dict[str, np.ndarray]]]:
        index, count = host_shard(mesh, run.rules)
        opened = open_stream(
            stream,
            name="heldout",
            seed=run.seed,
            process_index=index,
            process_count=count,
            source=source,
        )
        try:
            for rows in opened:
                yield {"main": rows}
        finally:
            opened.close()

    return heldout(run.task, settings, batches, run.seed)
