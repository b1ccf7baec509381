"""Sample grids of tokenizers and enlargers: pictures of the data beside what is made of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from genjax.cli.streams import settings_of
from genjax.data import Source, open_once
from genjax.data.report import grid_png
from genjax.parallel import batch_sharding, using
from genjax.tasks.generate import whole_batch
from genjax.training.hooks import Hook, samples


def hook(run: Any, mesh: Mesh, sources: Mapping[str, Source]) -> Hook:
    """Returns the hook that writes `samples.num` pictures, each beside what is made of it.

    They are the first ones of the held-out split where held-out data are measured, of the training
    data otherwise.
    """
    settings, task = run.samples, run.task
    source = sources["main"]
    if run.heldout.every_images:
        source = dataclasses.replace(run.data["main"].source, split=run.heldout.split).open()
    images = first_images(run, source, settings.num)
    whole = whole_batch(len(images), len(images), mesh)
    padded = images[np.minimum(np.arange(whole), len(images) - 1)]

    def both(params, frozen, image):
        with using(mesh, run.rules):
            x = task.from_pixels(image)
            return task.to_uint8(x), task.to_uint8(task.redraw(params, frozen, x))

    compiled = jax.jit(both)

    def draw(params, frozen) -> np.ndarray:
        sharding = batch_sharding(mesh, run.rules)
        placed = jax.make_array_from_callback(padded.shape, sharding, padded.__getitem__)
        pairs = compiled(params, frozen, placed)
        if jax.process_count() > 1:
            pairs = multihost_utils.process_allgather(pairs, tiled=True)
        return np.concatenate([np.asarray(x)[: len(images)] for x in pairs], axis=2)

    def picture(pairs: np.ndarray, title: str) -> bytes:
        title = f"{title}; left: data, right: made of it"
        return grid_png(pairs, columns=settings.columns, title=title)

    return samples(settings, draw, picture)


def first_images(run: Any, source: Source, num: int) -> np.ndarray:
    """Returns the first images [n <= num, h, w, c] of a source, as the task's stream has them."""
    stream = open_once(dataclasses.replace(settings_of(run, "main"), batch=num), source=source)
    try:
        batch = next(stream)
    finally:
        stream.close()
    return batch["image"][batch["mask"]]
