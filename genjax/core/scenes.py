"""The world of the data set `shapes`: its words, its records, and what an object looks like.

Here because the source that draws pictures and the checker that reads them both need it. Lengths
are in units of 1/32 of the picture's side; x runs to the right and y downwards, both from the
middle of the object in the drawing functions and from the upper left corner in `Thing`.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

UNITS = 32  # units along a side
COLOURS = {
    "red": (216, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (244, 222, 60),
    "green": (52, 168, 72),
    "blue": (48, 84, 212),
    "purple": (146, 62, 190),
}
SHAPES = ("circle", "square", "triangle", "cross")
TEXTURES = ("solid", "striped", "checkered")
SIZES = {"small": 4.1, "large": 6.2}  # radius: all shapes lie in the square of half side radius
SIZE_JITTER = 0.05  # relative, either way
GAP, MARGIN = 2.5, 1.0  # least distance of two objects' squares, and of those to the border
DARKER = 0.6  # the dark parts of a texture have 1 - DARKER of the colour
RELATIONS = {  # name -> (axis, sign): the first lies on that side of the second
    "left of": ("x", -1),
    "right of": ("x", 1),
    "above": ("y", -1),
    "below": ("y", 1),
}
VALUES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": tuple(SIZES)}
SPLIT_BY = ("colour", "shape")


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object of a picture; `x`, `y`: its middle. None: cannot be read off the picture."""

    shape: str | None
    colour: str | None
    texture: str | None
    size: str | None
    x: float
    y: float
    radius: float
    rgb: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Group:
    """What a caption says of `count` equal objects; None: it says nothing of that."""

    count: int
    shape: str
    colour: str
    size: str | None = None
    texture: str | None = None


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a caption says: exactly these objects, and relations (group, name, group) of them."""

    groups: tuple[Group, ...]
    relations: tuple[tuple[int, str, int], ...] = ()

    @property
    def count(self) -> int:
        """All objects together."""
        return sum(g.count for g in self.groups)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture's ground truth, and what its caption says of it."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]
    statement: Statement
    caption: str

    def to_json(self) -> str:
        """Returns the record as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """Returns the record that `to_json` wrote."""
        record = json.loads(text)
        said = record["statement"]
        things = tuple(Thing(**{**t, "rgb": tuple(t["rgb"])}) for t in record["things"])
        groups = tuple(Group(**g) for g in said["groups"])
        relations = tuple((a, name, b) for a, name, b in said["relations"])
        background = tuple(record["background"])
        return cls(things, background, Statement(groups, relations), record["caption"])


def held_out(values: dict[str, str | None], split_by: Sequence[str] = SPLIT_BY) -> bool:
    """Says whether this combination of attributes is kept out of training: one in four is.

    The ranks of the attributes `split_by` add up to a multiple of four. By colour and shape, every
    colour lacks just one shape in training.
    """
    return sum(VALUES[name].index(str(values[name])) for name in split_by) % 4 == 0


def holds(relation: str, first: Sequence[Thing], second: Sequence[Thing]) -> bool:
    """Says whether all of `first` lie on that side of all of `second`, by two units at least."""
    axis, sign = RELATIONS[relation]
    low, high = (first, second) if sign < 0 else (second, first)
    return max(getattr(t, axis) for t in low) + 2.0 < min(getattr(t, axis) for t in high)


def cover(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Returns the share [h, w] of every pixel that the shape covers, with smooth edges.

    x [w], y [h], radius in pixels, from the object's middle.
    """
    if shape == "square":
        return np.outer(_bar(y, 0.88 * radius), _bar(x, 0.88 * radius))
    if shape == "cross":
        wide, thin = 1.0 * radius, 0.36 * radius
        upright = np.outer(_bar(y, wide), _bar(x, thin))
        return np.maximum(upright, np.outer(_bar(y, thin), _bar(x, wide)))
    if shape == "circle":
        inside = radius - np.sqrt(np.add.outer(y * y, x * x))
    elif shape == "triangle":
        # Apex (0, -radius), base at y = 0.75 radius from -radius to radius; 2.0156 = |(1.75, -1)|.
        sides = np.add.outer((y + radius) / 2.0156, np.abs(x) * (-1.75 / 2.0156))
        inside = np.minimum(sides, (0.75 * radius - y)[:, None])
    else:
        raise ValueError(f"{shape!r} is no shape; known: {SHAPES}")
    inside += 0.5
    return inside.clip(0.0, 1.0, out=inside)


def darkness(texture: str, x: np.ndarray, y: np.ndarray, unit: float) -> np.ndarray:
    """Returns how dark the texture is at every pixel: 0 (the colour) to 1, broadcast to [h, w].

    x [w], y [h] in pixels from the object's middle; `unit`: pixels of a unit.
    """
    if texture == "striped":
        return _wave(y, 5.0 * unit)[:, None]
    if texture == "checkered":
        a, b = _wave(y + 1.5 * unit, 6.0 * unit), _wave(x + 1.5 * unit, 6.0 * unit)
        return np.outer(a, b) + np.outer(1.0 - a, 1.0 - b)
    return np.zeros((1, 1))


def _bar(x: np.ndarray, half: float) -> np.ndarray:
    return (half + 0.5 - np.abs(x)).clip(0.0, 1.0)


def _wave(u: np.ndarray, period: float) -> np.ndarray:
    """A square wave with edges a pixel wide: 1 about u = period / 2, 0 about u = 0."""
    return (0.5 + period / 4 - np.abs(u % period - period / 2)).clip(0.0, 1.0)
