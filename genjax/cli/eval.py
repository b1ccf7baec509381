"""Measure samples against a reference and the config's target.

    genjax eval --workdir runs/quickstart --reference digits --metrics fid,label_agreement
                --extractor classifier:runs/classifier --num 1000
    genjax eval --samples samples.npz --reference image_folder:photos --metrics nearest,spread
    genjax eval --workdir runs/quickstart --reference digits:test --metrics bpd

Every value is printed with its protocol, and beside it the same measurement of real held-out
images and of noise. Bits per dimension (bpd) are of the reference's images, all of them.
"""

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from genjax.cli import density
from genjax.cli.progress import Progress
from genjax.cli.prompts import captions_of, tokens_of
from genjax.core.errors import UserError
from genjax.core.registry import construct
from genjax.evaluation import Reference, images, statistics

HELP = "measure samples against a reference and the config's target"
LABEL_RULES = ("balanced", "uniform", "data")
_IN_MEMORY = 2**30  # bytes of pixels up to which a data set is read once

# The other half of a data set with a split: real images that the reference has not seen.
_HELDOUT = {
    "digits": "digits:test",
    "digits:train": "digits:test",
    "digits:test": "digits:train",
    "fashion_mnist": "fashion_mnist:test",
    "fashion_mnist:train": "fashion_mnist:test",
    "fashion_mnist:test": "fashion_mnist:train",
    "shapes": "shapes:heldout",
    "shapes:train": "shapes:heldout",
    "shapes:heldout": "shapes:train",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--workdir", help="draw samples of this workdir or converted model")
    given.add_argument("--samples", help="read samples: FILE.npz (arr_0, labels), or a folder")
    parser.add_argument(
        "--reference",
        required=True,
        help="data set (digits, fashion_mnist:test, tfds:NAME, image_folder:PATH, ...), or a "
        "FILE.npz of images (arr_0) or statistics (mu, sigma)",
    )
    parser.add_argument("--metrics", required=True, help="such as fid,label_agreement")
    parser.add_argument(
        "--extractor",
        help="feature network: inception[:pytorch-fid|tf-legacy|adm|clean-fid], dinov2:s|b|l|g, "
        "clip:b32|b16|l14|l14-336, or classifier:WORKDIR",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[NAME=]FILE[,FILE]",
        help="weight file of --extractor, or of the network NAME (lpips=BACKBONE,HEADS); may be "
        "repeated (default: the files in --weights-folder, checked against published hashes)",
    )
    parser.add_argument(
        "--weights-folder", help="folder of public weights (default: ~/.cache/genjax/weights)"
    )
    parser.add_argument("--num", type=int, help="samples to draw (default 1000) or to read (all)")
    parser.add_argument("--json", help="write the report to this file too")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default 0)")
    parser.add_argument(
        "--labels",
        choices=LABEL_RULES,
        default="balanced",
        help="how the samples' classes are chosen: every class equally often, uniformly at "
        "random, or at random as often as in the reference (default balanced)",
    )
    parser.add_argument(
        "--heldout",
        help="other real images, measured as a scale (default: the data set's other split; "
        "none: leave it out)",
    )
    parser.add_argument("--solver", help="solver in place of the config's")
    parser.add_argument("--steps", type=int, help="solver steps in place of the config's")
    parser.add_argument("--guidance", type=float, help="guidance weight (1: none)")
    parser.add_argument("--ema", help="EMA by name, raw, or posthoc:WIDTH (default: the first EMA)")
    parser.add_argument("--batch", type=int, default=256, help="images at a time, on all devices")
    parser.add_argument(
        "--cache", help="folder of reference statistics made before (none: keep none)"
    )
    density.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes the report; returns 0."""
    import jax

    from genjax.evaluation import (
        METRICS,
        MODEL,
        Settings,
        Tools,
        evaluate,
        lines,
        open_extractor,
        runner,
        with_extractor,
    )
    from genjax.evaluation.images import noise
    from genjax.parallel import initialize

    initialize()
    for flag, value in (("--num", args.num), ("--batch", args.batch)):
        if value is not None and value < 1:
            raise UserError(f"{flag}: must be at least 1, not {value}")
    if args.json:
        runner.check_writable(args.json)
    names = [name.strip() for name in args.metrics.split(",") if name.strip()]
    bits = density.given(args, "bpd" in names)
    settings = {"bpd": {k: bits[k] for k in ("passes", "images") if k in bits}}
    metrics = {n: METRICS.build({"name": n, **settings.get(n, {})}, "--metrics") for n in names}
    metrics = {n: with_extractor(m, args.extractor) for n, m in metrics.items()}
    roles = {metric.extractor: metric.extractor or args.extractor for metric in metrics.values()}
    asks_model = roles.pop(MODEL, None) is not None
    extractors: dict[Any, Any]
    tools = Tools(load_classifier, load_weights, weight_files_of(args))
    if args.weights_folder:
        tools = dataclasses.replace(tools, folder=Path(args.weights_folder))
    extractors = {r: open_extractor(s, tools) for r, s in roles.items() if s}
    model, samples = None, None
    if args.workdir:
        from genjax.cli.model import load

        model = load(args.workdir, ema=args.ema)
        shape, config = tuple(model.task.image), model.config
    else:
        samples = _read(args)
        shape, config = samples.shape, None
    reference = open_reference(args.reference, shape, config)
    heldout = args.heldout or _HELDOUT.get(args.reference, "none")
    context = [] if heldout == "none" else [open_data(heldout, shape, config, "real ")]
    note = ""
    if model is not None and any(metric.samples for metric in metrics.values()):
        samples, note = _draw(args, model, reference)
    if samples is not None:
        context.append(noise(shape, samples.size, args.seed))
    with _Bars() as bars:
        if asks_model and model is not None and reference.images is not None:
            extractors[MODEL] = density.ModelDensity(
                model,
                bits,
                reference.images,
                batch=args.batch,
                seed=args.seed,
                advance=bars.advance,
            )
        report = evaluate(
            samples,
            reference,
            metrics,
            extractors,
            context=context,
            settings=Settings(
                seed=args.seed,
                batch=args.batch,
                cache=statistics_cache(args.cache),
                note=note,
                target=_target(config),
                advance=bars.advance,
            ),
        )
    if jax.process_index():  # every process has measured the same, the first one tells
        return 0
    print("\n".join(lines(report)))
    if args.json:
        runner.write_json(args.json, report)
        print(f"report -> {args.json}")
    return 0


def load_classifier(workdir: str, flag: str = "--extractor") -> tuple[Any, Any]:
    """Returns (task, parameters) of a workdir of configs/classifier, averaged where it averages.

    `flag` is the one that named it, for the `UserError` where nothing is there.
    """
    from genjax.checkpoint import Workdir
    from genjax.cli.model import default_ema, read_params
    from genjax.cli.schema import build_run, expand_run
    from genjax.cli.workdir import read_config

    config = read_config(Workdir(workdir))
    if config is None:
        raise UserError(f"{flag}: {workdir}: no config.json there; give a trained classifier")
    trained = build_run(expand_run(config))
    if "model" not in {n for p in trained.task.players for n in p.trains}:
        return trained.task, {}
    params, _ = read_params(workdir, trained, default_ema(trained.ema))
    return trained.task, params["model"]


def load_weights(format: str, files: Sequence[Path], **fields: Any) -> tuple[Any, Any]:
    """Returns (module, variables) of public weights, which may lie in several files together."""
    from genjax import weights

    if len(files) == 1:
        return weights.load(format, files[0], **fields)
    tensors: dict[str, Any] = {}
    for file in files:
        tensors |= weights.io.read_tensors(str(file))  # pyright: ignore[reportAttributeAccessIssue]
    return weights.load(format, tensors, **fields)


def weight_files_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns extractor -> files, of --weights [NAME=]FILE[,FILE]."""
    out = {}
    for given in args.weights:
        name, equals, files = given.partition("=")
        if not equals:
            name, files = args.extractor, given
        if not name:
            raise UserError(f"--weights: {given} is of no network; add --extractor or NAME=")
        out[name] = [f for f in files.split(",") if f]
    return out


def open_reference(spec: str, shape: tuple[int, ...], config: dict | None) -> Reference:
    """Returns the reference: an .npz of images or statistics, else a data set or a folder."""
    if spec.endswith(".npz"):
        keys = statistics.keys(spec)
        if "mu" in keys:
            held = images.open_samples(spec) if "arr_0" in keys else None
            spatial = statistics.load(spec, "_s") if "mu_s" in keys else None
            return Reference(spec, held, statistics.load(spec), spatial)
        return Reference(spec, images.open_samples(spec))
    if os.path.isdir(spec):
        spec = f"image_folder:{spec}"
    return Reference(spec, open_data(spec, shape, config))


def open_data(
    spec: str, shape: tuple[int, ...], config: dict | None, prefix: str = ""
) -> images.ImageSet:
    """Returns a data set's images in 0..255 at `shape` (h, w, c), in its own order.

    They pass the transforms of the config's stream of the same source (padding, crop), or else are
    scaled to cover h x w and cropped. Small sets are held in memory, others read when needed.
    """
    from genjax.data import SOURCES, StreamSettings, parse_source
    from genjax.data.loader import Loader

    choice = parse_source(spec)
    settings = StreamSettings(image_size=(shape[0], shape[1]), channels=shape[2])
    for stream in (config or {}).get("data", {}).values():
        if stream["source"]["name"] == choice["name"]:
            kept = {k: stream[k] for k in ("image_size", "crop", "channels", "pad")}
            settings = construct(StreamSettings, kept)
    source = SOURCES.build(choice, "--reference").open()
    loader = Loader(source, settings, "reference", 0)
    count, levels = len(source), source.levels
    made = [] if levels == 256 else [f"grey levels 0..{levels - 1} as round(v 255/{levels - 1})"]
    raw = source[0]["image"].shape if "image" in source[0] else None
    if raw is None:
        raise UserError(f"{spec}: holds no images; name a data set of images")
    first = images.to_uint8(loader((0, 0))["image"], levels)
    if raw != first.shape:
        made.append(f"{'x'.join(map(str, raw))} brought to {'x'.join(map(str, first.shape))}")
    pool = ThreadPoolExecutor(16)

    def records(indices) -> Iterator[dict]:
        return pool.map(lambda i: loader((int(i), int(i))), indices)

    def read(indices) -> np.ndarray:
        return images.to_uint8(np.stack([r["image"] for r in records(indices)]), levels)

    def labels() -> np.ndarray | None:
        found = [r.get("label") for r in records(range(count))]
        return None if found[0] is None else np.asarray(found, np.int64)

    def captions() -> list[str] | None:
        found = [source.caption(i) for i in range(count)] if source.caption(0) is not None else []
        return [str(c).split("\n")[0] for c in found] or None

    name = prefix + spec
    if count * first.nbytes <= _IN_MEMORY:
        found = images.of_arrays(name, read(range(count)), labels(), "; ".join(made))
    else:
        found = images.ImageSet(name, count, first.shape, read, labels, "; ".join(made))
    return found.with_captions(captions)


def labels_by_rule(
    rule: str, num: int, classes: int, reference: Reference, seed: int
) -> np.ndarray | None:
    """Returns int32 [num] labels by the rule; None for a model without classes.

    balanced: i mod classes; uniform: at random; data: a random one of the reference's labels.
    """
    if not classes:
        return None
    if rule == "balanced":
        return (np.arange(num) % classes).astype(np.int32)
    rng = np.random.default_rng(seed)
    if rule == "uniform":
        return rng.integers(0, classes, num).astype(np.int32)
    known = None if reference.images is None else reference.images.labels
    if known is None:
        raise UserError(
            f"--labels data: {reference.name} has no labels; choose balanced or uniform"
        )
    return known[rng.integers(0, len(known), num)].astype(np.int32)


def _read(args: argparse.Namespace) -> images.ImageSet:
    for flag in ("solver", "steps", "guidance", "ema"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: changes how samples are drawn; it goes with --workdir")
    samples = images.open_samples(args.samples)
    if args.num is None:
        return samples
    if args.num > samples.size:
        raise UserError(f"--num: {args.num}, but {args.samples} holds {samples.size} images")
    return samples.take(np.arange(args.num))


def _draw(args: argparse.Namespace, model: Any, reference: Reference) -> tuple[Any, str]:
    """Returns the samples of the model and the clauses that say how they were drawn."""
    num = args.num or 1000
    captions, given = None, {}
    if model.text is not None:
        captions = captions_of(reference, num)
        num, given = len(captions), {"tokens": tokens_of(model, captions)}
    labels = labels_by_rule(args.labels, num, model.task.num_classes, reference, args.seed)
    generator = model.generator(
        num, steps=args.steps, guidance=args.guidance, solver=args.solver, batch=args.batch
    )

    def batches():
        with Progress("samples", num) as progress:
            for part in generator(
                model.params, model.frozen, num=num, labels=labels, seed=args.seed, given=given
            ):
                yield part
                progress.advance(len(part[0]))

    made = "" if model.step is None else f"step {model.step}"
    drawn = images.collect(args.workdir, batches(), made)
    if generator.problem:
        raise UserError(generator.problem)
    if captions is not None:
        drawn = drawn.with_captions(lambda: captions)
    sampler = generator.task.sampler
    weight = getattr(sampler.guidance, "weight", None)
    clauses = [
        f"{num} captions"
        if captions
        else "no labels"
        if labels is None
        else f"labels {args.labels}",
        f"{type(sampler.solver).__name__}",
        f"NFE {generator.evaluations}",
        "no guidance" if weight is None else f"guidance {weight:g}",
        f"weights {model.ema}",
    ]
    return drawn, "; ".join(clauses)


def _target(config: dict | None) -> dict:
    target = (config or {}).get("target") or {}
    return target if target.get("value") is not None else {}


def statistics_cache(given: str | None) -> Path | None:
    """Returns the folder of reference statistics: the user's cache, `given`, or None for "none"."""
    if given == "none":
        return None
    if given:
        return Path(given)
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "genjax" / "statistics"


class _Bars:
    """One progress display after another, as the runner goes from set to set."""

    def __enter__(self) -> "_Bars":
        self._stack, self._what = ExitStack(), ""
        return self

    def advance(self, what: str, total: int, n: int) -> None:
        if what != self._what:
            self._stack.close()
            self._what = what
            self._bar = self._stack.enter_context(Progress(what, total))
        self._bar.advance(n)

    def __exit__(self, *exception) -> None:
        self._stack.close()
