"""Reads the objects of a picture of the data set `shapes`, exactly, with nothing learnt.

Pixels unlike the background fall into connected regions. Each region is compared with drawings of
every shape, size, texture and position (quarters of a pixel, sharp and blurred), where the colour
is what fits best by least squares; the drawing with the least squared error says what it is.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy import ndimage

from genjax.core.scenes import (
    COLOURS,
    DARKER,
    GAP,
    SHAPES,
    SIZE_JITTER,
    SIZES,
    TEXTURES,
    UNITS,
    Thing,
    cover,
    darkness,
)

_UNLIKE = (80.0, 110.0, 140.0, 170.0)  # distance from the background: of an object, of its core
_LEAST_AREA = 8  # pixels; less is dirt
_HALF = 9  # a region is compared in a window of 2 _HALF + 1 pixels
_WIDEST = 2 * max(SIZES.values()) * (1 + SIZE_JITTER) + GAP  # more must be several objects
_EXPLAINED = 0.88  # of a region's squared contrast, or it is none of the known drawings
_COLOUR_OFF = 75.0  # RGB distance beyond which a colour has no name
_BLURS = (0.0, 0.7, 1.0, 1.4)  # pixels
_PALETTE = np.array(list(COLOURS.values()), np.float32)


@dataclasses.dataclass(frozen=True)
class _Bank:
    """All drawings, [pixels of the window, n]: the shape's share, and the share of its colour."""

    share: np.ndarray
    bright: np.ndarray
    what: list[tuple[str, str, str, float, float, float]]  # shape, texture, size, radius, dx, dy


@functools.cache
def _bank() -> _Bank:
    pixels = np.arange(-_HALF, _HALF + 1) + 0.5
    share, bright, what = [], [], []
    phases = (np.arange(4) + 0.5) / 4
    for shape in SHAPES:
        for size, middle in SIZES.items():
            for radius in middle * (1 + SIZE_JITTER * np.array([-0.67, 0.0, 0.67])):
                # The window is put at the centre of mass, which for a triangle is not its middle.
                below = 0.167 * radius if shape == "triangle" else 0.0
                for dx in phases:
                    for dy in phases - below:
                        a = cover(shape, pixels - dx, pixels - dy, radius)
                        for texture in TEXTURES:
                            dark = darkness(texture, pixels - dx, pixels - dy, 1.0)
                            for blur in _BLURS:
                                pair = a, a * (1 - DARKER * dark)
                                if blur:
                                    pair = tuple(ndimage.gaussian_filter(v, blur) for v in pair)
                                share.append(pair[0].ravel())
                                bright.append(pair[1].ravel())
                                what.append((shape, texture, size, radius, dx, dy))
    return _Bank(
        np.ascontiguousarray(np.array(share, np.float32).T),
        np.ascontiguousarray(np.array(bright, np.float32).T),
        what,
    )


def read(image: np.ndarray) -> tuple[Thing, ...]:
    """Returns the objects of a picture, uint8 [32 k, 32 k, 3], from left to right.

    Positions and radii in units of 1/32 of the side. An object that is none of the known drawings
    has None for what cannot be said of it, and still counts. Raises `ValueError` for other sizes.
    """
    pixels = _in_units(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    ground = np.median(border, 0)
    noise = float(np.mean(np.square(1.4826 * np.median(np.abs(border - ground), 0))))
    contrast = pixels - ground
    labels = _regions(contrast)
    things = [
        _thing(contrast * ((labels == k) | (labels == 0))[..., None], labels == k, ground, noise)
        for k in range(1, labels.max() + 1)
    ]
    return tuple(sorted(things, key=lambda t: (t.x, t.y)))


def _in_units(image: np.ndarray) -> np.ndarray:
    """Returns the picture as float32 [32, 32, 3] by averaging squares of pixels."""
    k, rest = divmod(image.shape[0], UNITS)
    if image.shape != (k * UNITS, k * UNITS, 3) or rest or not k or image.dtype != np.uint8:
        raise ValueError(
            f"a picture of shapes is uint8 RGB with sides of a multiple of {UNITS} pixels, not "
            f"{image.dtype} {list(image.shape)}"
        )
    return image.reshape(UNITS, k, UNITS, k, 3).mean((1, 3), dtype=np.float32)


def _regions(contrast: np.ndarray) -> np.ndarray:
    """Returns int [h, w]: 0 for the background, 1 .. n for the objects."""
    distance = np.linalg.norm(contrast, axis=-1)
    out = np.zeros(distance.shape, int)
    todo = [(distance > 0, 0)]
    while todo:
        region, level = todo.pop()
        labelled: Any = ndimage.label(region & (distance > _UNLIKE[level]))
        parts = [labelled[0] == k + 1 for k in range(labelled[1])]
        parts = [p for p in parts if p.sum() >= _LEAST_AREA]
        if level and len(parts) < 2:  # a higher bar did not take it apart
            parts = []
            if level + 1 < len(_UNLIKE):
                todo.append((region, level + 1))
            else:
                out[region] = out.max() + 1
        for part in parts:
            wide = max(np.ptp(i) + 1 for i in np.nonzero(part)) > _WIDEST
            if wide and level + 1 < len(_UNLIKE):
                todo.append((part, level + 1))
            else:
                out[part] = out.max() + 1
    return out


def _thing(contrast: np.ndarray, region: np.ndarray, ground: np.ndarray, noise: float) -> Thing:
    """Returns the object of one region; `contrast` [h, w, 3] is 0 where other objects are."""
    bank = _bank()
    rows, columns = np.nonzero(region)
    middle = int(rows.mean() + 0.5), int(columns.mean() + 0.5)
    padded = np.pad(contrast, ((_HALF + 1,) * 2, (_HALF + 1,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded[middle[0] : middle[0] + 2 * _HALF + 3, middle[1] : middle[1] + 2 * _HALF + 3],
        (2 * _HALF + 1,) * 2,
        (0, 1),
    )  # [3, 3, channels, window, window]
    p = np.ascontiguousarray(windows, np.float32).reshape(27, -1)
    products = [(p @ drawings).reshape(9, 3, -1) for drawings in (bank.bright, bank.share)]
    p = p.reshape(9, 3, -1)
    # A drawing says: pixel - ground (1 - share) = colour * bright. Least squares in the colour.
    ground = ground.astype(np.float32)[:, None]
    own, both = (bank.bright**2).sum(0), (bank.share * bank.bright).sum(0)
    product = products[0] + ground * both
    colour = np.clip(product / own, 0.0, 255.0)
    target = (p**2).sum(-1)[..., None] + 2 * ground * products[1]
    target += ground**2 * (bank.share**2).sum(0)
    error = (target - 2 * colour * product + colour**2 * own).sum(1)  # [9, n]
    place, best = np.unravel_index(np.argmin(error), error.shape)
    shape, texture, size, radius, dx, dy = bank.what[best]
    y, x = middle[0] + place // 3 - 1 + dy, middle[1] + place % 3 - 1 + dx
    rgb = colour[place, :, best]
    off = np.linalg.norm(_PALETTE - rgb, axis=1)
    name = list(COLOURS)[int(np.argmin(off))] if off.min() < _COLOUR_OFF else None
    total = float((p[place] ** 2).sum())
    unexplained = max(float(error[place, best]) - noise * p[place].size, 0.0)
    known = unexplained < (1 - _EXPLAINED) * total
    return Thing(
        shape if known else None,
        name,
        texture if known else None,
        size if known else None,
        round(float(x), 3),
        round(float(y), 3),
        round(float(radius), 3),
        (round(float(rgb[0])), round(float(rgb[1])), round(float(rgb[2]))),
    )
