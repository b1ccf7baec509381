"""Loader throughput in images per second and core, beside what a training step eats here.

    python benchmarks/loader.py

Each line pairs a stream with the network that would train on it. Loader: images per second of
processor time, all threads counted. Step (forward, backward, AdamW): images per second with all
cores; on CPU it is counted by processor time too, so that other work on the machine does not
flatter the ratio. Aim: a ratio of at least 5.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from PIL import Image

from genjax.core.registry import construct, expand
from genjax.data import StreamSettings, open_stream
from genjax.data.array_record import Writer, finalise
from genjax.models.dit import DiT

SMALL = {"patch": 2, "width": 128, "depth": 4, "heads": 4, "num_classes": 10}
DIT_S4 = {"patch": 4, "width": 384, "depth": 12, "heads": 6}


def write_records(folder: str, record: dict, count: int) -> None:
    """Writes `count` copies of a record, each with its label."""
    meta = {"num_classes": 1000}
    with Writer(folder, meta) as writer:
        for i in range(count):
            writer.write(record | {"label": np.int32(i % 1000)})
    finalise(folder, 1, meta)


def write_pictures(folder: Path, count: int) -> None:
    """Writes JPEGs of ImageNet's usual size and smoothness, in two class folders."""
    rng = np.random.RandomState(0)
    for i in range(count):
        coarse = Image.fromarray(rng.randint(0, 256, (24, 32, 3)).astype(np.uint8))
        target = folder / str(i % 2) / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(target, quality=90)


def loader_rate(settings: dict, seconds: float) -> float:
    """Returns images per second of processor time, in steady state."""
    built = construct(StreamSettings, expand(StreamSettings, settings, "data"), "data")
    stream = open_stream(built, seed=0)
    for _ in range(built.prefetch + 1):
        next(stream)
    images, started, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        next(stream)
        images += built.batch
    rate = images / (time.process_time() - busy)
    stream.close()
    return rate


def step_rate(fields: dict, shape: tuple[int, ...], batch: int, seconds: float) -> float:
    """Returns images per second of a training step of a DiT that has the machine to itself."""
    model, optimizer = DiT(**fields), optax.adamw(1e-4)
    x = jax.random.normal(jax.random.key(0), (batch, *shape))
    t, label = jnp.linspace(0, 1, batch), jnp.zeros(batch, jnp.int32)
    params = nn.meta.unbox(model.init(jax.random.key(1), x, t, label))
    state = optimizer.init(params)

    def loss(params):
        out = jnp.asarray(model.apply(params, x, t, label))
        return jnp.mean(jnp.square(out[..., : shape[-1]] - x))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.block_until_ready(step(params, state))
    steps, started, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        params, state = jax.block_until_ready(step(params, state))
        steps += 1
    if jax.default_backend() == "cpu":
        return steps * batch / (time.process_time() - busy) * (os.cpu_count() or 1)
    return steps * batch / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    rng = np.random.RandomState(0)
    with tempfile.TemporaryDirectory() as scratch:
        pixels = rng.randint(0, 256, (256, 256, 3)).astype(np.uint8)
        moments = rng.normal(size=(32, 32, 8)).astype(np.float32)
        latents = {"moments": moments, "moments_flip": moments}
        write_records(f"{scratch}/latents", latents, 2000)
        write_records(f"{scratch}/pixels", {"image": pixels}, 500)
        write_pictures(Path(scratch) / "jpeg", 200)
        small = step_rate(SMALL, (8, 8, 1), 128, seconds)
        dit = step_rate(DIT_S4, (32, 32, 4), 16, seconds)
        rows = [
            ("digits 8x8, quickstart's DiT", {"source": {"name": "digits"}}, small),
            ("latents 32x32x8, float32, flips; DiT-S/4", _records(scratch, "latents"), dit),
            ("raw pixels 256x256; DiT-S/4", _records(scratch, "pixels"), dit),
            (
                "JPEG 500x375 cropped to 256; DiT-S/4",
                {
                    "source": {"name": "image_folder", "path": f"{scratch}/jpeg"},
                    "image_size": 256,
                    "flip": True,
                    "batch": 16,
                },
                dit,
            ),
        ]
        print(f"{os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()[0].device_kind}")
        print(f"{'stream; network':44s} {'loader/s/core':>14s} {'step eats/s':>12s} {'ratio':>7s}")
        for name, settings, eaten in rows:
            rate = loader_rate(settings, seconds)
            print(f"{name:44s} {rate:14.0f} {eaten:12.1f} {rate / eaten:7.1f}")


def _records(scratch: str, name: str) -> dict:
    source = {"name": "array_record", "path": f"{scratch}/{name}"}
    return {"source": source, "flip": True, "batch": 32}


if __name__ == "__main__":
    main()
