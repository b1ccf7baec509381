"""Write a source as a folder of ArrayRecord shards: cropped once, then read at full speed.

Images are stored as raw uint8, with labels and captions. Elements that cannot be decoded are left
out and named. Run the same command again after an interruption: finished shards are kept. Several
machines share the work with --part 0/4 ... --part 3/4; the command without --part then finishes.

    genjax prepare dataset --source image_folder:photos --out data/photos64 --size 64
    genjax prepare dataset --source tfds:imagenet2012 --download          (TFDS's own preparation)
"""

import argparse
import functools
import json
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from genjax.cli.progress import Progress
from genjax.core.errors import UserError
from genjax.data import Corrupt, Source, files, open_source, parse_source, transforms
from genjax.data import array_record as records
from genjax.data import tfds as tfds_source

HELP = "a source as a folder of ArrayRecord shards"
PER_SHARD, MOST_SHARDS = 4096, 512  # a reader keeps all its shards open: mind the limit on files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", required=True, help="image_folder:PATH, tfds:NAME[:SPLIT], digits:test, ..."
    )
    parser.add_argument("--out", help="folder to write, also gs://...")
    parser.add_argument("--size", type=int, help="side of the images, cropped in the middle (ADM)")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="grey or RGB")
    parser.add_argument(
        "--shards",
        type=int,
        help=f"files (default: one per {PER_SHARD} elements, at most {MOST_SHARDS})",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="on this machine"
    )
    parser.add_argument("--part", help="I/N: only the shards of machine I of N (I from 0)")
    parser.add_argument("--data-dir", help="folder of the TFDS data sets")
    parser.add_argument(
        "--download", action="store_true", help="tfds:NAME: download and prepare it (extra tfds)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the folder (and, with --download, prepares the TFDS data set first). Returns 0."""
    choice = parse_source(args.source)
    if args.data_dir:
        if choice["name"] != "tfds":
            raise UserError(f"--data-dir: {args.source} is no tfds: source; leave it out")
        choice["data_dir"] = args.data_dir
    if args.download:
        if choice["name"] != "tfds":
            raise UserError(f"--download: {args.source} is no tfds: source; leave it out")
        where = tfds_source.prepare(choice["dataset"], choice.get("data_dir", ""))
        print(f"{args.source} is prepared in {where}")
        if not args.out:
            return 0
    if not args.out:
        raise UserError("--out: name the folder to write")
    if args.size is not None and args.size < 1:
        raise UserError(f"--size: must be at least 1, not {args.size}")
    if args.processes < 1:
        raise UserError(f"--processes: must be at least 1, not {args.processes}")
    return _write(args, choice)


def _write(args: argparse.Namespace, choice: dict[str, Any]) -> int:
    if files.exists(files.join(args.out, records.INDEX)):
        raise UserError(f"--out: {args.out} already holds a finished data set; choose another")
    source = open_source(choice)
    if not len(source):
        raise UserError(f"{args.source}: holds no elements; fill it")
    shards = args.shards
    if shards is None:
        shards = min(-(-len(source) // PER_SHARD), MOST_SHARDS)
    if not 1 <= shards <= len(source):
        raise UserError(f"--shards: must lie in 1..{len(source)} (the elements), not {shards}")
    part, parts = _part(args.part)
    meta = {
        "kind": "dataset",
        "source": choice,
        "elements": len(source),
        "size": args.size,
        "channels": args.channels,
        "levels": source.levels,
        "num_classes": source.num_classes,
        "class_names": list(source.class_names),
        "split": source.split,
    }
    mine = range(part, shards, parts)
    todo = [s for s in mine if not records.shard_finished(args.out, s, shards, meta)]
    if len(todo) < len(mine):
        print(f"{len(mine) - len(todo)} finished shards are kept")
    left_out = _run_shards(args, choice, meta, todo, shards)
    if left_out:
        names = ", ".join(left_out[:10]) + (" ..." if len(left_out) > 10 else "")
        print(f"{len(left_out)} elements cannot be decoded and are left out: {names}")
    if args.part:
        print(f"part {args.part} is done; after all parts, run the command without --part")
        return 0
    index = records.finalise(args.out, shards, meta)
    if not index["records"]:
        raise UserError(f"{args.source}: no element can be decoded; mend the files")
    form = index["fields"].get("image", {}).get("shape")
    print(f"{index['records']} elements, images {form}, in {shards} shards -> {args.out}")
    return 0


def _part(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        raise UserError(f"--part: {text!r}; write I/N, such as 0/4") from None
    if not 0 <= part < parts:
        raise UserError(f"--part: {text!r}; I counts from 0 to N - 1")
    return part, parts


def _run_shards(args, choice: Mapping, meta: Mapping, todo: list[int], shards: int) -> list[str]:
    """Writes the shards `todo` over processes; returns the names of the elements left out."""
    job = functools.partial(
        write_shard, json.dumps(choice), args.out, args.size, args.channels, dict(meta), shards
    )
    left_out: list[str] = []
    with Progress("shards", len(todo)) as progress:
        if min(args.processes, len(todo)) <= 1:
            for shard in todo:
                left_out += job(shard)
                progress.advance(1)
            return left_out
        # Spawned, not forked: the parent has threads of JAX's.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(args.processes, len(todo)), context) as pool:
            try:
                for future in as_completed([pool.submit(job, shard) for shard in todo]):
                    left_out += future.result()
                    progress.advance(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return left_out


@functools.lru_cache(1)
def _opened(choice: str) -> Source:
    """Returns the source, opened once a process: listing a million files takes seconds."""
    return open_source(json.loads(choice))


def write_shard(
    choice: str,
    out: str,
    size: int | None,
    channels: int | None,
    meta: dict[str, Any],
    shards: int,
    shard: int,
) -> list[str]:
    """Writes one shard, a contiguous piece of the source; returns the names of what it left out."""
    source, left_out = _opened(choice), []
    n = len(source)
    with records.Writer(out, meta, shard, shards) as writer:
        for i in range(shard * n // shards, (shard + 1) * n // shards):
            try:
                record = dict(source[i])
            except Corrupt:
                left_out.append(source.describe(i))
                continue
            if "image" in record:
                image = record["image"]
                if channels:
                    image = transforms.to_channels(image, channels)
                if size:
                    image = transforms.center_crop(image, size, size, source.levels)
                record["image"] = image
            writer.write(record)
    return left_out
