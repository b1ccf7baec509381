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
import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from genjax.cli import density
from genjax.cli.eval_inputs import (
    HELDOUT,
    LABEL_RULES,
    how_drawn,
    labels_by_rule,
    load_classifier,
    load_weights,
    open_data,
    open_reference,
    statistics_cache,
    store_of,
    target_of,
    weight_files_of,
)
from genjax.cli.progress import Progress
from genjax.cli.prompts import captions_of, tokens_of
from genjax.core.errors import UserError
from genjax.evaluation import MODEL, Reference, Store, images, runner
from genjax.evaluation.extractors import tree_hash
from genjax.tasks.generate import evaluations, problem

HELP = "measure samples against a reference and the config's target"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--workdir", help="draw samples of this workdir or converted model")
    given.add_argument(
        "--samples", help="read samples: FILE.npz (arr_0, labels), a folder, or a data set"
    )
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
        "clip:b32|b16|l14|l14-336, classifier:WORKDIR, or tokenizer:WORKDIR (for codebook)",
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
    parser.add_argument(
        "--progress",
        metavar="DIR",
        help="folder that keeps what is done, so that the same command goes on after a kill "
        "(default: eval/ of the workdir, or ~/.cache/genjax/evaluations; none: keep nothing)",
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how often to save it (0: after every batch; default 30)",
    )
    parser.add_argument(
        "--save",
        metavar="FILE.npz",
        help="write the samples' statistics (mu, sigma; with sfid also mu_s, sigma_s and images)",
    )
    density.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes the report; returns 0."""
    import jax

    from genjax.evaluation import (
        METRICS,
        Settings,
        Tools,
        evaluate,
        lines,
        open_extractor,
        with_extractor,
    )
    from genjax.evaluation.images import noise
    from genjax.parallel import initialize

    initialize()
    for flag, value in (("--num", args.num), ("--batch", args.batch)):
        if value is not None and value < 1:
            raise UserError(f"{flag}: must be at least 1, not {value}")
    for flag in ("json", "save"):
        if getattr(args, flag):
            runner.check_writable(getattr(args, flag), f"--{flag}")
    names = [name.strip() for name in args.metrics.split(",") if name.strip()]
    bits = density.given(args, "bpd" in names)
    settings = {"bpd": {k: bits[k] for k in ("passes", "images") if k in bits}}
    metrics = {n: METRICS.build({"name": n, **settings.get(n, {})}, "--metrics") for n in names}
    metrics = {n: with_extractor(m, args.extractor) for n, m in metrics.items()}
    roles = {m.extractor: m.extractor or args.extractor for m in metrics.values()}
    roles.pop(None, None)
    asks_model = roles.pop(MODEL, None) is not None
    if args.save and not any("statistics" in m.samples for m in metrics.values()):
        raise UserError("--save: writes the statistics that fid measures; add it to --metrics")
    extractors: dict[Any, Any]
    measures_samples = any(metric.samples for metric in metrics.values())
    store = Store()
    if measures_samples:
        store = store_of(args.progress, args.workdir, args.save_every)
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
    heldout = args.heldout or HELDOUT.get(args.reference, "none")
    context = [] if heldout == "none" else [open_data(heldout, shape, config, "real ")]
    note = ""
    if model is not None and measures_samples:
        samples, note = _draw(args, model, reference, metrics, extractors, store)
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
                store=store,
                save=Path(args.save) if args.save else None,
                note=note,
                target=target_of(config),
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


def _read(args: argparse.Namespace) -> images.ImageSet:
    for flag in ("solver", "steps", "guidance", "ema"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: changes how samples are drawn; it goes with --workdir")
    if Path(args.samples).exists() or args.samples.endswith(".npz"):
        samples = images.open_samples(args.samples)
    else:
        samples = open_data(args.samples, None, None)
    if args.num is None:
        return samples
    if args.num > samples.size:
        raise UserError(f"--num: {args.num}, but {args.samples} holds {samples.size} images")
    return samples.take(np.arange(args.num))


def _draw(
    args: argparse.Namespace,
    model: Any,
    reference: Reference,
    metrics: dict[str, Any],
    extractors: dict[Any, Any],
    store: Store,
) -> tuple[images.ImageSet, str]:
    """Returns the samples of the model and the clauses that say how they were drawn.

    Those that the store holds are not drawn again.
    """
    num, shape = args.num or 1000, tuple(model.task.image)
    captions, given = None, {}
    if model.text is not None:
        captions = captions_of(reference, num)
        num, given = len(captions), {"tokens": tokens_of(model, captions)}
    labels = labels_by_rule(args.labels, num, model.task.num_classes, reference, args.seed)
    planned = images.ImageSet(args.workdir, num, shape, np.empty, lambda: labels)
    runner.check(planned, reference, metrics, {MODEL: None, **extractors})  # before hours are spent
    generator = model.generator(
        num, steps=args.steps, guidance=args.guidance, solver=args.solver, batch=args.batch
    )
    sampler = generator.task.sampler
    work = store.work("samples", **_identity(model, sampler, num, labels, captions, args.seed))
    with Progress("samples", num) as progress:
        progress.advance(work.done)
        asked = {"num": num, "labels": labels, "seed": args.seed, "first": work.done}
        for pictures, classes in generator(model.params, model.frozen, given=given, **asked):
            count = len(pictures)
            rows = {f"measured {k}": v[-count:] for k, v in generator.measures.items()}
            rows |= {"arr_0": pictures} | ({} if classes is None else {"arr_1": classes})
            work.add(count, rows)
            progress.advance(count)
    work.finish()
    found = work.rows("measured nfe", "measured ok")
    measures = {k.removeprefix("measured "): v for k, v in found.items()}
    if lost := problem(measures):
        raise UserError(lost)
    made = "" if model.step is None else f"step {model.step}"
    spent = evaluations(generator.task, measures)
    drawn = work.image_set(args.workdir, made)
    if captions is not None:
        drawn = drawn.with_captions(lambda: captions)
    return drawn, how_drawn(sampler, labels, args.labels, spent, model.ema, captions)


def _identity(
    model: Any,
    sampler: Any,
    num: int,
    labels: np.ndarray | None,
    captions: list[str] | None,
    seed: int,
) -> dict[str, Any]:
    """Returns all that the samples depend on."""
    return {
        "weights": tree_hash({"params": model.params, "frozen": model.frozen}),
        "task": (model.config or {}).get("task"),
        "sampler": repr(sampler),
        "num": num,
        "labels": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
        "captions": captions,
        "seed": seed,
    }


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
