"""Draw samples from a workdir of `genjax train` or a folder of `genjax convert`.

    genjax sample --workdir runs/edm --num 64 --labels 0,1 --out samples.npz
    genjax sample --workdir runs/parti --prompts partiprompts --candidates 16 --rerank runs/coca
                  --out runs/parti/prompts

Image i depends on the checkpoint, the settings, the seed and i alone, not on batch or devices.
Prompts are the lines of a file, a source's captions (shapes:heldout) or PartiPrompts; a folder of
their pictures gets an index.html that shows them by category.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from genjax.cli.progress import Progress
from genjax.core.errors import UserError

HELP = "draw samples from a trained or converted model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="workdir, or folder of a converted model")
    parser.add_argument("--num", type=int, help="how many samples (prompts: the first so many)")
    parser.add_argument("--out", required=True, help="FILE.npz (arr_0, labels) or folder of PNGs")
    parser.add_argument(
        "--prompts", help="FILE (a prompt a line), partiprompts, shapes:heldout, ..."
    )
    parser.add_argument("--candidates", type=int, default=1, help="pictures a prompt (default 1)")
    parser.add_argument(
        "--rerank", help="workdir of a trained CoCa, which keeps the best candidate"
    )
    parser.add_argument("--enlarge", help="workdir of a trained enlarger of the prompts' pictures")
    parser.add_argument(
        "--tokenizer", help="workdir that turns codes into images (default: config)"
    )
    parser.add_argument("--labels", help="classes in turn, such as 0,1,2 (default: every class)")
    parser.add_argument("--solver", help="solver in place of the config's")
    parser.add_argument("--steps", type=int, help="solver steps in place of the config's")
    parser.add_argument("--guidance", type=float, help="guidance weight (1: none)")
    parser.add_argument(
        "--temperature", type=float, help="of codes' logits (0: the likeliest code)"
    )
    parser.add_argument("--top-k", type=int, help="draw of so many likeliest codes (0: of all)")
    parser.add_argument("--top-p", type=float, help="draw of the likeliest codes of this mass")
    parser.add_argument("--schedule", help="sampler of a schedule.json of `genjax search`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--ema", help="EMA by name, raw, or posthoc:WIDTH (default: the first EMA)")
    parser.add_argument("--batch", type=int, default=256, help="samples at a time, on all devices")
    parser.add_argument("--grid", help="also draw the first samples as one picture FILE.png")


def run(args: argparse.Namespace) -> int:
    """Draws and writes the samples; returns 0."""
    import jax

    from genjax.cli.model import load
    from genjax.data.report import save_grid
    from genjax.parallel import initialize

    out = Path(args.out)
    prompts = _prompts(args)
    num = len(prompts) if prompts else args.num
    check_out(out, num)
    if args.batch < 1:
        raise UserError(f"--batch: must be at least 1, not {args.batch}")
    if args.schedule and (args.solver or args.steps):
        raise UserError("--schedule: holds solver and steps; leave out --solver and --steps")
    if args.grid and not Path(args.grid).resolve().parent.is_dir():
        raise UserError(f"--grid: there is no folder {Path(args.grid).parent}; make it first")
    initialize()
    model = load(args.workdir, ema=args.ema, tokenizer=args.tokenizer)
    if prompts:
        return _draw_prompts(args, model, prompts, out)
    if args.schedule:
        model = model.scheduled(args.schedule)
    labels = model.labels(num, parse_labels(args.labels))
    generator = model.generator(
        num,
        steps=args.steps,
        guidance=args.guidance,
        solver=args.solver,
        decoding=_decoding(args),
        batch=args.batch,
    )
    started, images = time.monotonic(), []
    with Progress("samples", num) as progress:
        for part, _ in generator(
            model.params, model.frozen, num=num, labels=labels, seed=args.seed
        ):
            images.append(part)
            progress.advance(len(part))
    if generator.problem:
        raise UserError(generator.problem)
    drawn = np.concatenate(images)
    if jax.process_index():  # every process has all samples, the first one writes them
        return 0
    write_samples(out, drawn, labels)
    seconds = time.monotonic() - started
    print(
        f"{len(drawn)} samples of the weights {model.ema!r} with {generator.evaluations} "
        f"evaluations each in {seconds:.1f} s -> {out}"
    )
    if args.grid:
        columns = max(1, min(model.task.num_classes or 8, 32))
        count = min(len(drawn), columns * 16)
        save_grid(drawn[:count], args.grid, columns=columns)
        print(f"grid -> {args.grid}")
    return 0


def _prompts(args: argparse.Namespace) -> tuple[Any, ...]:
    """Returns the prompts that are asked for, () for none; raises `UserError` for wrong flags."""
    from genjax.data.prompts import read_prompts

    if args.num is not None and args.num < 1:
        raise UserError(f"--num: must be at least 1, not {args.num}")
    if not args.prompts:
        if args.num is None:
            raise UserError("--num: must be given where there are no --prompts")
        for flag in ("rerank", "candidates", "enlarge"):
            if getattr(args, flag) not in (None, 1):
                raise UserError(f"--{flag}: is of --prompts; give them")
        return ()
    for flag in ("labels", "steps", "schedule", "solver"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: says nothing to a model of --prompts; leave it out")
    return read_prompts(args.prompts, args.num)


def _decoding(args: argparse.Namespace) -> dict[str, float]:
    """Returns what is asked for of how codes are drawn."""
    found = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    return {name: value for name, value in found.items() if value is not None}


def _draw_prompts(args: argparse.Namespace, model: Any, prompts: Any, out: Path) -> int:
    """Draws the prompts' pictures and writes them with captions, scores and a page; returns 0."""
    import jax

    from genjax.cli import prompt_page
    from genjax.cli.prompts import draw
    from genjax.cli.rerank import open_scorer
    from genjax.cli.upscale import open_enlarger
    from genjax.data.report import save_grid

    texts = [prompt.text for prompt in prompts]
    started = time.monotonic()
    scorer = open_scorer(args.rerank) if args.rerank else None
    enlarge = open_enlarger(args.enlarge, model.task.image) if args.enlarge else lambda x: x
    with Progress("samples", len(texts) * args.candidates) as progress:
        drawn = draw(
            model,
            texts,
            candidates=args.candidates,
            scorer=scorer,
            guidance=args.guidance,
            decoding=_decoding(args),
            seed=args.seed,
            batch=args.batch,
            advance=progress.advance,
        )
    if jax.process_index():
        return 0
    scores = {} if drawn.scores is None else {"scores": drawn.scores, "kept": drawn.kept}
    images = enlarge(drawn.images)
    write_samples(out, images, None, captions=np.array(texts), **scores)
    if out.suffix != ".npz":
        (out / "captions.txt").write_text("\n".join(" ".join(t.split()) for t in texts) + "\n")
        prompt_page.write(out, prompts, drawn, title=f"{args.workdir}, step {model.step}")
    if args.grid:
        save_grid(images[:256], args.grid, captions=texts[:256])
    best = "" if args.candidates == 1 else f", the best of {args.candidates} by {args.rerank}"
    seconds = time.monotonic() - started
    print(f"{len(texts)} prompts{best}, of the weights {model.ema!r}, in {seconds:.1f} s -> {out}")
    return 0


def parse_labels(text: str | None) -> list[int] | None:
    """Returns the integers of "0,1,2" (None for None); raises `UserError` for anything else."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--labels: {text!r}; give numbers separated by commas, such as 0,1,2"
        ) from error


def check_out(out: Path, num: int) -> None:
    """Raises `UserError` where samples could not be written, before hours are spent on them.

    Nor may a folder hold other pictures than those that `num` samples replace.
    """
    if out.suffix not in (".npz", ""):
        raise UserError(f"--out: {out}: give a FILE.npz or a folder for numbered PNGs")
    folder = out.parent if out.suffix else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".genjax-probe"
        probe.touch()
        probe.unlink(missing_ok=True)  # of several processes, another may have been first
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be written ({error.strerror})") from error
    mine = {f"{i:06d}.png" for i in range(num)} if not out.suffix else set()
    others = (
        [] if out.suffix else sorted(p.name for p in folder.glob("*.png") if p.name not in mine)
    )
    if others:
        raise UserError(
            f"--out: {out} already holds {len(others)} pictures that are not of these {num} "
            f"samples, such as {others[0]}; give another folder"
        )


def write_samples(
    out: Path, images: np.ndarray, labels: np.ndarray | None, **more: np.ndarray
) -> None:
    """Writes uint8 images [n, h, w, c] (and labels [n]) to an npz or a folder, whole or not at all.

    The npz holds `arr_0`, and the labels twice (`arr_1`, `labels`): what the field's tools read;
    and the arrays `more` by name, which a folder does not.
    """
    if out.suffix == ".npz":
        arrays = {"arr_0": images, **more}
        if labels is not None:
            arrays |= {"arr_1": labels, "labels": labels}
        partial = out.with_name(f".{out.name}.partial.npz")
        try:
            np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType]
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
        return
    from PIL import Image

    for i, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out / f"{i:06d}.png")
    if labels is not None:
        (out / "labels.txt").write_text("\n".join(str(int(label)) for label in labels) + "\n")
