"""Train a SentencePiece model on a data set's own captions.

Unigram pieces with byte fallback, upper case kept; ids 0 pad, 1 end, 2 unknown. Writes text.model
and text.json (how many captions and pieces, tokens a caption) into the folder. A stream then gives
token ids with --config.data.main.text.name=sentencepiece --config.data.main.text.model=FOLDER.

    genjax prepare captions --source shapes --out data/shapes_text
    genjax prepare captions --source image_folder:photos --vocab 16000 --out data/photos_text
    genjax prepare captions --config configs/parti/coco.py --out data/coco_text
"""

import argparse
import hashlib
from collections.abc import Iterator

import numpy as np

from genjax.cli.progress import Progress
from genjax.core.errors import UserError
from genjax.data import Source, files, open_source, text

HELP = "a SentencePiece model of a data set's captions"
LENGTH = 128  # tokens that --config.data.main.text.length keeps unless told otherwise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="shapes, captioned:fashion_mnist, image_folder:PATH, ...")
    parser.add_argument("--config", help="FILE.py[:ARG]: the source of its first stream")
    parser.add_argument("--out", required=True, help="folder to write, also gs://...")
    parser.add_argument("--vocab", type=int, default=16_000, help="pieces at most (default 16000)")
    parser.add_argument(
        "--most",
        type=int,
        default=1_000_000,
        help="captioned elements at most, evenly spaced (default 1000000)",
    )


def run(args: argparse.Namespace) -> int:
    """Trains the model and writes the folder; returns 0."""
    if args.vocab < 300:
        raise UserError(f"--vocab: must be at least 300 (256 are bytes), not {args.vocab}")
    if args.most < 1:
        raise UserError(f"--most: must be at least 1, not {args.most}")
    if bool(args.source) == bool(args.config):
        raise UserError("give either --source or --config, which says the source")
    if files.exists(files.join(args.out, text.MODEL)):
        raise UserError(f"--out: {args.out} already holds a text model; choose another folder")
    source, name = _source(args)
    captions = list(read(source, name, args.most))
    if not captions:
        raise UserError(f"{name}: all captions are empty; write some")
    model = text.train(captions, args.vocab)
    tokenizer = text.Tokenizer(model, LENGTH)
    counts = np.array([len(tokenizer.ids(c)) + 1 for c in captions])
    report = {
        "kind": "sentencepiece",
        "source": name,
        "captions": len(captions),
        "captions_sha256": hashlib.sha256("\n".join(captions).encode()).hexdigest(),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "vocab_asked": args.vocab,
        "vocab": tokenizer.size,
        "tokens": {
            "mean": float(counts.mean()),
            "p99": float(np.percentile(counts, 99)),
            "max": int(counts.max()),
            f"share_cut_at_{LENGTH}": float(np.mean(counts > LENGTH)),
        },
    }
    text.save(model, report, args.out)
    print(
        f"{len(captions)} captions, {tokenizer.size} pieces, {counts.mean():.1f} tokens a caption, "
        f"at most {counts.max()}; {np.mean(counts > LENGTH):.2%} are cut at {LENGTH} -> {args.out}"
    )
    if tokenizer.size < args.vocab:
        print(f"these captions make no more than {tokenizer.size} of {args.vocab} pieces")
    return 0


def _source(args: argparse.Namespace) -> tuple[Source, str]:
    if args.source:
        return open_source(args.source), args.source
    from genjax.cli.config import read_file, resolve
    from genjax.cli.schema import build_run, expand_run

    run = build_run(resolve(read_file(args.config), args.overrides, expand_run))
    settings = next(iter(run.data.values())).source
    return settings.open(), f"{args.config} ({type(settings).__name__})"


def read(source: Source, name: str, most: int) -> Iterator[str]:
    """Yields the captions that are not empty, of at most `most` evenly spaced elements."""
    count = min(len(source), most)
    with Progress("captions", count) as progress:
        for k in range(count):
            i = k * len(source) // count
            caption = source.caption(i)
            if caption is None:
                raise UserError(
                    f"{name}: {source.describe(i)} has no caption; see the source's keys for "
                    "captions, or captioned:SOURCE for captions made of labels"
                )
            yield from (line.strip() for line in caption.split("\n") if line.strip())
            progress.advance(1)
