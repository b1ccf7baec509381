"""Write the codes of every image, for training Parti or VIM on sequences of them.

The tokenizer is that of a workdir of `genjax train`. The codes [l] (int32, raster order) go into
ArrayRecord shards with labels and captions, with --flip those of the mirrored image too, of which
training then takes one by its coin (never mirror pictures with text).

Run the same command in several processes (see launch/) to share the shards among them, and run it
again after an interruption: finished shards are kept. The folder counts once its index is written.

    genjax prepare tokens --workdir runs/tokenizer --source image_folder:photos --out data/tokens
"""

import argparse
import dataclasses
from typing import Any

import jax.numpy as jnp

from genjax.cli.prepare_latents import first_element, write_folder
from genjax.cli.trained import default_ema, open_run, read_params
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.data import Source, StreamSettings, files, open_source
from genjax.data import array_record as records
from genjax.evaluation.extractors import tree_hash
from genjax.parallel import initialize
from genjax.tasks import Tokenizer

HELP = "images as a tokenizer's codes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="workdir of the trained tokenizer")
    parser.add_argument("--out", required=True, help="folder to write, also gs://...")
    parser.add_argument("--source", help="image_folder:PATH, ... (default: its own data)")
    parser.add_argument("--ema", help="EMA by name, or raw (default: the first EMA)")
    parser.add_argument("--flip", action="store_true", help="encode the mirrored images too")
    parser.add_argument("--batch", type=int, default=32, help="images at a time, per process")
    parser.add_argument("--shards", type=int, help="files (default: one per 8192 images)")


@dataclasses.dataclass
class Plan:
    """What is encoded, and how."""

    task: Tokenizer
    variables: Tree
    source: Source
    stream: StreamSettings
    flip: bool

    @property
    def module(self) -> Any:
        return self.task.model

    def encode(self, variables: Tree, image: Array) -> dict[str, Array]:
        """Returns {"codes"[, "codes_flip"]} int32 [b, l] of images [b, h, w, c]."""
        views = {"codes": image} | ({"codes_flip": jnp.flip(image, 2)} if self.flip else {})
        return {name: self.task.encode(variables, x) for name, x in views.items()}


def run(args: argparse.Namespace) -> int:
    """Encodes this process's shards; the first process then writes the index. Returns 0."""
    initialize()
    if files.exists(files.join(args.out, records.INDEX)):
        raise UserError(f"--out: {args.out} already holds a finished data set; choose another")
    plan, meta = make_plan(args)
    index = write_folder(plan, args.out, args.shards, meta, HELP)
    if index:
        print(
            f"{index['records']} images in {len(index['shards'])} shards, "
            f"{plan.module.length} codes of {plan.module.quantizer.size} each -> {args.out}"
        )
    return 0


def make_plan(args: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    """Returns the plan and the metadata of the folder; raises `UserError` for a wrong request."""
    if args.batch < 1:
        raise UserError(f"--batch: must be at least 1, not {args.batch}")
    trained = open_run(args.workdir, "--workdir", Tokenizer, "a trained tokenizer's workdir")
    task = trained.task
    ema = args.ema or default_ema(trained.ema)
    params, step = read_params(args.workdir, trained, ema)
    own = trained.data["main"]
    source = open_source(args.source) if args.source else own.source.open()
    first = first_element(source)
    if "image" not in first:
        raise UserError(f"the source has no images, only {', '.join(first)}; give another --source")
    if source.levels != task.levels:
        raise UserError(
            f"--source: its images have {source.levels} grey levels, but the tokenizer was trained "
            f"on {task.levels}"
        )
    stream = dataclasses.replace(
        own,
        batch=args.batch,
        image_size=tuple(task.image[:2]),
        channels=task.image[2],
        fields=tuple(k for k in first if k in ("image", "label", "caption")),
        flip=False,
    )
    model, encoder = task.model, {"encoder": params["encoder"]}
    meta = {
        "kind": "tokens",
        "tokenizer": {
            "workdir": args.workdir,
            "step": step,
            "ema": ema,
            "encoder_sha256": tree_hash(encoder),
        },
        "codes": model.quantizer.size,
        "grid": list(model.grid),
        "source": args.source or str(own.source),
        "flip": args.flip,
        "images": len(source),
        "num_classes": source.num_classes,
        "class_names": list(source.class_names),
        "split": source.split,
    }
    return Plan(task, encoder, source, stream, args.flip), meta
