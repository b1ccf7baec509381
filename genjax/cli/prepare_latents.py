"""Write the autoencoder's moments of every image, for training on latents.

Encoding an image costs more than a forward pass of DiT-XL/2, so it is done once: mean and
log-variance (unscaled, [h/8, w/8, 2z]) go into ArrayRecord shards with labels and captions, and
with --flip those of the mirrored image too. Training draws from the posterior they describe.

Run the same command in several processes (see launch/) to share the shards among them, and run it
again after an interruption: finished shards are kept. The folder counts once its index is written.

    genjax prepare latents --source image_folder:imagenet/train --vae sd-vae-ft-mse --size 256
        --flip --out latents/imagenet256
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from genjax import weights
from genjax.cli.progress import Progress
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.data import Corrupt, Source, StreamSettings, files, open_once, open_source
from genjax.data import array_record as records
from genjax.models.vae import KLVAE
from genjax.parallel import MeshSpec, batch_sharding, check_batch, initialize, replicated, using
from genjax.tasks.codec import KLVAECodec, file_hash

HELP = "images as an autoencoder's moments"
PER_SHARD = 8192  # images of a shard unless --shards says otherwise
DTYPES = ("float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="image_folder:PATH, tfds:NAME, array_record:PATH, digits")
    parser.add_argument("--vae", help="autoencoder: a file, or a folder as diffusers saves it")
    parser.add_argument("--out", required=True, help="folder to write, also gs://...")
    parser.add_argument("--config", help="FILE.py[:ARG]: source, autoencoder and size come from it")
    parser.add_argument("--size", type=int, help="side of the images, cropped in the middle")
    parser.add_argument("--flip", action="store_true", help="encode the mirrored images too")
    parser.add_argument("--batch", type=int, default=32, help="images at a time, per process")
    parser.add_argument("--shards", type=int, help=f"files (default: one per {PER_SHARD} images)")
    parser.add_argument("--store", choices=DTYPES, default="float32", help="dtype of the moments")
    parser.add_argument("--compute", choices=DTYPES, default="float32", help="of the autoencoder")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is encoded, and how. Pixels 0 .. levels-1 become `data_range`."""

    module: KLVAE
    variables: Tree
    source: Source
    stream: StreamSettings
    data_range: tuple[float, float]
    flip: bool
    store: str

    def encode(self, variables: Tree, image: Array) -> dict[str, Array]:
        """Returns {"moments"[, "moments_flip"]} [b, h/f, w/f, 2z] of images [b, h, w, c]."""
        low, high = self.data_range
        x = image.astype(jnp.float32) * ((high - low) / (self.source.levels - 1)) + low
        views = {"moments": x} | ({"moments_flip": x[..., ::-1, :]} if self.flip else {})
        return {
            name: jnp.asarray(self.module.apply(variables, x, method=KLVAE.encode), self.store)
            for name, x in views.items()
        }


def run(args: argparse.Namespace) -> int:
    """Encodes this process's shards; the first process then writes the index. Returns 0."""
    initialize()
    if files.exists(files.join(args.out, records.INDEX)):
        raise UserError(f"--out: {args.out} already holds a finished data set; choose another")
    plan, meta = make_plan(args)
    index = write_folder(plan, args.out, args.shards, meta, HELP)  # pyright: ignore[reportArgumentType]
    if index:
        print(
            f"{index['records']} images in {len(index['shards'])} shards, moments "
            f"{index['fields']['moments']['shape']} {plan.store} -> {args.out}"
        )
    return 0


class Encoding(Protocol):
    """What is written: `encode(variables, images) -> fields` of every image of `source`."""

    @property
    def module(self) -> Any: ...
    @property
    def variables(self) -> Tree: ...
    @property
    def source(self) -> Source: ...
    @property
    def stream(self) -> StreamSettings: ...

    def encode(self, variables: Tree, image: Array) -> dict[str, Array]: ...


def write_folder(
    plan: Encoding, out: str, shards: int | None, meta: dict[str, Any], what: str
) -> dict[str, Any]:
    """Writes this process's shards; the first process then writes and returns the index.

    `shards` None: one per `PER_SHARD` images. Returns {} in the other processes. Raises `UserError`
    for a number of shards that the images do not fill.
    """
    default = -(-len(plan.source) // PER_SHARD)
    shards = default if shards is None else shards
    if not 1 <= shards <= len(plan.source):
        raise UserError(f"--shards: must lie in 1..{len(plan.source)} (the images), not {shards}")
    mine = range(jax.process_index(), shards, jax.process_count())
    todo = [s for s in mine if not records.shard_finished(out, s, shards, meta)]
    if len(todo) < len(mine):
        print(f"{len(mine) - len(todo)} finished shards are kept", file=sys.stderr)
    write_shards(plan, out, todo, shards, meta)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"genjax prepare, {what}: shards written")
    return records.finalise(out, shards, meta) if jax.process_index() == 0 else {}


def make_plan(args: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    """Returns the plan and the metadata of the folder; raises `UserError` for a wrong request."""
    module: Any
    if args.batch < 1:
        raise UserError(f"--batch: must be at least 1, not {args.batch}")
    if args.config:
        task, stream = _from_config(args)
        codec = dataclasses.replace(task.codec, path=args.vae or task.codec.path)
        path, form = codec.path, codec.format
        module, variables, data_range = codec.model, codec.load(), task.data_range
        source = open_source(args.source) if args.source else stream.source.open()
        name, size, pad, flip = str(stream.source), task.image[:2], stream.pad, stream.flip
    elif args.vae and args.source:
        path, form, data_range = args.vae, "diffusers-vae", (-1.0, 1.0)
        module, variables = weights.load(form, path)
        source = open_source(args.source)
        name, size, pad, flip = args.source, None, 0, False
    else:
        raise UserError("give --source and --vae, or a --config that says both")
    name, flip = args.source or name, args.flip or flip
    size = (args.size, args.size) if args.size else size
    module = module.clone(dtype=args.compute)
    first = first_element(source)
    if "image" not in first:
        raise UserError(
            f"the source has no images, only {', '.join(first)}; give the images by --source"
        )
    height, width = size or first["image"].shape[:2]
    if height % module.factor or width % module.factor:
        raise UserError(
            f"images of {height} x {width}: both sides must be divisible by the autoencoder's "
            f"{module.factor}; set --size"
        )
    settings = StreamSettings(
        batch=args.batch,
        image_size=(height, width),
        channels=module.in_channels,
        fields=tuple(k for k in first if k in ("image", "label", "caption")),
        pad=pad,
        prefetch=2,
    )
    meta = {
        "kind": "latents",
        "vae": {"path": path, "format": form, "sha256": file_hash(path)},
        "source": name,
        "image_size": [height, width],
        "data_range": list(data_range),
        "flip": flip,
        "store": args.store,
        "compute": args.compute,
        "images": len(source),
        "levels": source.levels,
        "num_classes": source.num_classes,
        "class_names": list(source.class_names),
        "split": source.split,
    }
    return Plan(module, variables, source, settings, data_range, flip, args.store), meta


def _from_config(args: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the task and the settings of the main stream of `--config`."""
    from genjax.cli.config import read_file, resolve
    from genjax.cli.schema import build_run, expand_run

    run = build_run(resolve(read_file(args.config), args.overrides, expand_run))
    if not isinstance(getattr(run.task, "codec", None), KLVAECodec):
        raise UserError("config.task.codec.name: must be 'kl_vae' to prepare latents")
    if getattr(run.task, "latents", False) and not args.source:
        raise UserError("--source: give the images; the config's data are the latents to be made")
    return run.task, run.data["main"]


def first_element(source: Source) -> Mapping[str, Any]:
    """Returns the first element that can be decoded."""
    for i in range(min(len(source), 256)):
        try:
            return source[i]
        except Corrupt as error:
            last = error
    if not len(source):
        raise UserError("the source holds no elements; fill it")
    raise UserError(f"no element can be decoded, such as {last}; mend the files")


def write_shards(plan: Encoding, out: str, todo: list[int], shards: int, meta: dict) -> None:
    """Encodes and writes the shards `todo`; shard s holds a contiguous piece of the source."""
    mesh = MeshSpec().build(jax.local_devices())
    check_batch(plan.stream.batch, mesh, key="--batch")
    variables = jax.device_put(plan.variables, replicated(mesh))
    n = len(plan.source)
    pieces = {s: Piece(plan.source, s * n // shards, (s + 1) * n // shards) for s in todo}
    # On TPUs a float32 product is made of bfloat16 ones unless all digits are asked for.
    precision = jax.default_matmul_precision("float32" if plan.module.dtype == "float32" else None)
    encode = jax.jit(plan.encode)
    with precision, using(mesh), Progress("images", sum(map(len, pieces.values()))) as progress:
        for shard, piece in pieces.items():
            stream = open_once(plan.stream, source=piece)
            try:
                with records.Writer(out, meta, shard, shards) as writer:
                    for record in _records(encode, variables, stream, batch_sharding(mesh)):
                        writer.write(record)
                        progress.advance(1)
                _report(stream.report())
            finally:
                stream.close()


class Piece(Source):
    """The elements `start` .. `stop - 1` of a source."""

    def __init__(self, source: Source, start: int, stop: int):
        self._source, self._start, self._stop = source, start, stop
        self.levels, self.num_classes = source.levels, source.num_classes
        self.class_names, self.split = source.class_names, source.split

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, i: int):
        return self._source[self._start + i]

    def describe(self, i: int) -> str:
        return self._source.describe(self._start + i)


def _records(encode, variables, stream, sharding) -> Iterator[dict[str, Any]]:
    """Yields the records of a stream; a batch is encoded while the one before is written."""
    waiting = None
    for batch in stream:
        image = jax.device_put(batch.pop("image"), sharding)
        encoded = encode(variables, image)  # returns at once
        if waiting:
            yield from _rows(*waiting)
        waiting = encoded, batch
    if waiting:
        yield from _rows(*waiting)


def _rows(encoded: Mapping[str, Array], batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per image; the rows that only fill up the last batch are left out."""
    mask = batch["mask"]
    fields = {**jax.device_get(encoded), **{k: v for k, v in batch.items() if k != "mask"}}
    for i in np.flatnonzero(mask):
        yield {name: values[i] for name, values in fields.items()}


def _report(report: Mapping[str, Any]) -> None:
    if report["replaced"]:
        names = ", ".join(sorted(report["names"])[:5])
        print(f"{report['replaced']} corrupt images replaced by others: {names}", file=sys.stderr)
