"""What `genjax edit` reads: images of the model's size, masks and operators, checked."""

import argparse
from pathlib import Path

import numpy as np

from genjax.cli.eval_inputs import open_data
from genjax.core.errors import UserError
from genjax.data import SOURCES
from genjax.evaluation import images
from genjax.evaluation.files import read_npz
from genjax.solvers import operators
from genjax.solvers.operators import Operator

NAMED_MASKS = ("left", "right", "top", "bottom", "center")


def open_images(args: argparse.Namespace, shape: tuple[int, ...], config: dict | None):
    """Returns the `ImageSet` of --images at the model's `shape` (h, w, c), the first --num of it.

    To be coloured, grey images will do, and to be enlarged, small ones: they are repeated over the
    channels or blocks, of which the measurement sees what they were.
    """
    text = args.images
    if Path(text).exists() or text.endswith(".npz"):
        found = images.open_samples(text)
    elif text.partition(":")[0] in SOURCES.entries:
        found = open_data(text, shape, config)
    else:
        raise UserError(
            f"--images: {text}: there is no such file or folder; give a FILE.npz (arr_0), a folder"
            " of pictures, or a data set such as digits:test"
        )
    pixels, given = found.read, tuple(found.shape)
    h, w, c = shape
    if args.operation == "colorize" and given == (h, w, 1) and c == 3:
        found = images.ImageSet(
            found.name, found.size, shape, lambda i: np.repeat(pixels(i), 3, -1), found.read_labels
        )
    elif args.operation == "super-resolve" and given == (h // args.factor, w // args.factor, c):
        found = images.ImageSet(
            found.name,
            found.size,
            shape,
            lambda i: pixels(i).repeat(args.factor, 1).repeat(args.factor, 2),
            found.read_labels,
        )
    elif given != tuple(shape):
        raise UserError(
            f"--images: {text}: are {list(given)}, but the model draws {list(shape)}; resize them,"
            " or name a data set, which is resized"
        )
    if args.num is not None and args.num > found.size:
        raise UserError(f"--num: {args.num}, but {text} holds {found.size} images")
    return found if args.num is None else found.take(np.arange(args.num))


def open_operator(args: argparse.Namespace, shape: tuple[int, ...]) -> Operator:
    """Returns what the operation of the command knows of images of the model's `shape`."""
    shape = tuple(shape)
    if args.operation == "inpaint":
        return operators.inpaint(open_mask(args.mask, shape), shape)
    if args.operation == "colorize":
        return operators.colorize(shape)
    if args.operation == "super-resolve":
        return operators.super_resolve(args.factor, shape)
    return operators.linear(_array(args.operator, "--operator"), shape)


def open_mask(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a mask, not 0 where pixels are known: [h, w] of a name or picture, or as in an .npz.

    The named part (a half, or the middle of half the height and width) is what is known; so are
    the light pixels (128 and above) of a picture.
    """
    h, w = shape[:2]
    if text in NAMED_MASKS:
        mask = np.zeros((h, w), bool)
        rows = {"top": slice(h // 2), "bottom": slice(h // 2, h), "center": _middle(h)}
        columns = {"left": slice(w // 2), "right": slice(w // 2, w), "center": _middle(w)}
        mask[rows.get(text, slice(h)), columns.get(text, slice(w))] = True
        return mask
    if text.endswith(".npz"):
        return _array(text, "--mask")
    if not Path(text).is_file():
        raise UserError(
            f"--mask: {text!r}: there is no such file; give a picture, an .npz, or one of "
            f"{', '.join(NAMED_MASKS)}"
        )
    from PIL import Image

    try:
        with Image.open(text) as image:
            return np.asarray(image.convert("L")) >= 128
    except OSError as error:
        raise UserError(f"--mask: {text}: is no readable picture ({error})") from error


def _middle(size: int) -> slice:
    return slice(size // 4, size // 4 + max(size // 2, 1))


def _array(path: str, flag: str) -> np.ndarray:
    """Returns the array of an .npz: the only one, or that of the flag's name, or arr_0."""
    if not Path(path).is_file():
        raise UserError(f"{flag}: {path}: there is no such file; give a FILE.npz")
    found = read_npz(path)
    if len(found) == 1:
        return next(iter(found.values()))
    for name in (flag.removeprefix("--"), "arr_0"):
        if name in found:
            return found[name]
    raise UserError(
        f"{flag}: {path}: holds {sorted(found)}; name one of them {flag.removeprefix('--')!r}"
    )
