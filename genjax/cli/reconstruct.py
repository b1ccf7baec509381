"""The sample grids of a tokenizer: pictures of the data beside what their codes give back."""

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
from genjax.training.hooks import Hook, samples


def hook(run: Any, mesh: Mesh, sources: Mapping[str, Source]) -> Hook:
    """Returns the hook that writes `samples.num` pictures, each beside its reconstruction.

    They are the first ones of the held-out split where held-out data are measured, of the training
    data otherwise.
    """
    settings, task = run.samples, run.task
    source = sources["main"]
    if run.heldout.every_images:
        source = dataclasses.replace(run.data["main"].source, split=run.heldout.split).open()
    images = first_images(run, source, settings.num)
    whole = -(-len(images) // mesh.size) * mesh.size
    padded = images[np.minimum(np.arange(whole), len(images) - 1)]

    def both(params, image):
        with using(mesh, run.rules):
            x = task.from_pixels(image)
            return task.to_uint8(x), task.to_uint8(task.reconstruct(params, x).image)

    compiled = jax.jit(both)

    def draw(params, frozen) -> np.ndarray:
        del frozen
        sharding = batch_sharding(mesh, run.rules)
        placed = jax.make_array_from_callback(padded.shape, sharding, padded.__getitem__)
        pairs = compiled(params, placed)
        if jax.process_count() > 1:
            pairs = multihost_utils.process_allgather(pairs, tiled=True)
        return np.concatenate([np.asarray(x)[: len(images)] for x in pairs], axis=2)

    def picture(pairs: np.ndarray, title: str) -> bytes:
        title = f"{title}; left: data, right: reconstruction"
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
