"""Edit images with a trained model: restore what is missing, guide to a class, or use its latents.

    genjax edit --workdir RUN --operation inpaint --images digits:test --mask left --out e.npz
    genjax edit --workdir RUN --operation colorize --images grey.npz --out e.npz
    genjax edit --workdir RUN --operation super-resolve --factor 2 --images photos --out e.npz
    genjax edit --workdir RUN --operation linear --operator A.npz --images x.npz --out e.npz
    genjax edit --workdir RUN --operation class --classifier RUN2 --labels 0,1,2 --out e.npz
    genjax edit --workdir RUN --operation encode --images digits:test --out latents.npz
    genjax edit --workdir RUN --operation interpolate --images pairs.npz --frames 8 --out e.npz

Image i depends on the checkpoint, the settings, the seed, i and image i given alone. Beside OUT a
picture shows inputs, what is known of them, and results.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genjax.cli.progress import Progress
from genjax.cli.sample import check_out, parse_labels, write_samples
from genjax.core.errors import UserError

HELP = "edit images with a trained or converted model"
RESTORE = ("inpaint", "colorize", "super-resolve", "linear")
LATENT = ("encode", "interpolate")
OPERATIONS = (*RESTORE, "class", *LATENT)
# Flag -> the operations that read it.
_READ_BY = {
    "images": {*RESTORE, *LATENT},
    "mask": {"inpaint"},
    "factor": {"super-resolve"},
    "operator": {"linear"},
    "classifier": {"class"},
    "frames": {"interpolate"},
    "tolerance": set(LATENT),
    "solver": {*RESTORE, "class"},
    "steps": {*RESTORE, "class"},
    "guidance": {*RESTORE, "class"},
    "legacy": set(RESTORE),
}
_DEFAULTS = {"factor": 2, "frames": 8, "tolerance": 1e-5}
_OPTIONAL = ("solver", "steps", "guidance", "legacy")
_SHOWN = 16  # images of the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="workdir, or folder of a converted model")
    parser.add_argument("--operation", required=True, help=", ".join(OPERATIONS))
    parser.add_argument(
        "--images", help="FILE.npz (arr_0), a folder of pictures, or a data set such as digits:test"
    )
    parser.add_argument("--out", required=True, help="FILE.npz (arr_0, labels) or folder of PNGs")
    parser.add_argument(
        "--mask",
        help="inpaint: what is known: left, right, top, bottom or center, a picture (light: known)"
        " or FILE.npz (not 0: known)",
    )
    parser.add_argument("--factor", type=int, help="super-resolve: side of a block (default 2)")
    parser.add_argument("--operator", help="linear: FILE.npz of a matrix [m, h w c]")
    parser.add_argument("--classifier", help="class: workdir of a classifier of noisy images")
    parser.add_argument(
        "--labels",
        help="class: classes in turn (default: every class); else the model's own labels (default:"
        " none)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        help="weight: of the classifier (default 1), else of classifier-free guidance",
    )
    parser.add_argument("--frames", type=int, help="interpolate: images a pair, ends included (8)")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="encode, interpolate: rtol and atol of the ODE (default 1e-5)",
    )
    parser.add_argument("--solver", help="solver in place of the config's")
    parser.add_argument("--steps", type=int, help="solver steps in place of the config's")
    parser.add_argument("--ema", help="EMA by name, raw, or posthoc:WIDTH (default: the first EMA)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--num", type=int, help="so many images (default: all given; class: 16)")
    parser.add_argument("--batch", type=int, default=256, help="images at a time, on all devices")
    parser.add_argument(
        "--legacy",
        action="store_const",
        const=True,
        help="impose what is known as Score SDE's published code does (with the solver pc)",
    )
    parser.add_argument("--grid", help="the picture's FILE.png (default: beside OUT)")


def run(args: argparse.Namespace) -> int:
    """Draws and writes the edited images; returns 0."""
    import jax

    from genjax.cli.edit_draw import edit
    from genjax.cli.model import load
    from genjax.data.report import save_grid
    from genjax.parallel import initialize

    check_flags(args)
    out = Path(args.out)
    grid = Path(args.grid) if args.grid else out.with_suffix(".png")
    if args.grid and not grid.resolve().parent.is_dir():
        raise UserError(f"--grid: there is no folder {grid.parent}; make it first")
    initialize()
    model = load(args.workdir, ema=args.ema)
    started = time.monotonic()
    with Progress("images", 1) as progress:
        result = edit(args, model, lambda num: check_out(out, num))
        progress.advance(1)
    if jax.process_index():  # every process has all images, the first one writes them
        return 0
    write_samples(out, result.images, result.labels, **result.arrays)
    seconds = time.monotonic() - started
    print(
        f"{len(result.images)} images by {args.operation} of the weights {model.ema!r}, "
        f"{result.about}, in {seconds:.1f} s -> {out}"
    )
    pictures, columns = picture(result.shown, result.images, result.columns)
    save_grid(pictures, str(grid), columns=columns)
    print(f"grid: {', '.join([*result.shown, 'results'])} -> {grid}")
    return 0


def check_flags(args: argparse.Namespace) -> None:
    """Raises `UserError` for an unknown operation, and for flags that it lacks or does not read.

    Fills in the defaults of those that it reads.
    """
    if args.operation not in OPERATIONS:
        raise UserError(
            f"--operation: {args.operation!r} is unknown; choose one of {', '.join(OPERATIONS)}"
        )
    for flag, readers in _READ_BY.items():
        given = getattr(args, flag) is not None
        if given and args.operation not in readers:
            raise UserError(
                f"--{flag}: the operation {args.operation} does not read it; it is for "
                f"{', '.join(o for o in OPERATIONS if o in readers)}"
            )
        if args.operation in readers and not given:
            if flag in _DEFAULTS:
                setattr(args, flag, _DEFAULTS[flag])
            elif flag not in _OPTIONAL:
                raise UserError(f"--{flag}: the operation {args.operation} needs it")
    parse_labels(args.labels)
    for flag, least in (("num", 1), ("batch", 1), ("factor", 2), ("frames", 2)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise UserError(f"--{flag}: must be at least {least}, not {value}")
    if args.tolerance is not None and not args.tolerance > 0:
        raise UserError(f"--tolerance: must be positive, not {args.tolerance:g}")
    if args.operation == "encode" and not args.out.endswith(".npz"):
        raise UserError(f"--out: {args.out}: latents need a FILE.npz")


def picture(shown: Mapping[str, Any], results: np.ndarray, columns: int) -> tuple[np.ndarray, int]:
    """Returns the images [n, h, w, c] of one sheet, and its columns.

    Rows of inputs, measurements and results of the same images; results alone go `columns` wide.
    """
    if not shown:
        return results[: _SHOWN * columns], columns
    count = min(len(results), _SHOWN)
    rows = [np.asarray(images)[:count] for images in (*shown.values(), results)]
    return np.concatenate(rows), count
