"""The data set `shapes`: made-up pictures of one to four objects, each with a caption that is true.

Element i is a function of i and the settings alone. What is in a picture is known exactly (the
field `scene`), so `genjax.evaluation.shapes` can say whether a generator did what it was told.
"""

import dataclasses
import itertools

import numpy as np

from genjax.core.registry import option
from genjax.core.scenes import DARKER, SPLIT_BY, UNITS, VALUES, Scene, cover, darkness, held_out
from genjax.data.array_record import Record
from genjax.data.shapes_scenes import Combination, scene
from genjax.data.sources import Source

SPLITS = ("train", "heldout", "all")
_STRIDE = 2**40  # scenes of the splits have numbers of their own


@dataclasses.dataclass(frozen=True)
class Shapes:
    """One to four coloured, sized, textured shapes with a true caption, drawn when asked for.

    One in four combinations of the attributes `split_by` never appears in `train`; all objects of
    `heldout` have one of them.
    """

    split: str = option("train", "train, heldout (combinations that train never shows) or all")
    side: int = option(32, "pixels of a side, 32 or 64")
    size: int = option(0, "number of elements; 0: 50,000, of heldout 5,000")
    least: int = option(1, "objects of a picture, at least")
    most: int = option(4, "objects of a picture, at most")
    split_by: tuple[str, ...] = option(
        SPLIT_BY, "attributes whose combinations are split: colour, shape, texture, size"
    )

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split: {self.split!r} is unknown; choose one of {', '.join(SPLITS)}")
        if self.side not in (32, 64):
            raise ValueError(f"side must be 32 or 64, not {self.side}")
        if not 1 <= self.least <= self.most <= 4:
            raise ValueError(f"1 <= least <= most <= 4, not least {self.least}, most {self.most}")
        if not 0 <= self.size <= _STRIDE:
            raise ValueError(f"size must lie in 0..{_STRIDE}, not {self.size}")
        wrong = [name for name in self.split_by if name not in VALUES]
        if wrong or len(set(self.split_by)) != len(self.split_by) or len(self.split_by) < 2:
            raise ValueError(f"split_by: two or more different ones of {', '.join(VALUES)}")

    def open(self) -> "ShapesSource":
        """Returns the source."""
        return ShapesSource(self)


def combinations(split: str, split_by: tuple[str, ...] = SPLIT_BY) -> list[Combination]:
    """Returns the (colour, shape, texture, size) that objects of a split may have."""
    every = itertools.product(*VALUES.values())
    if split == "all":
        return list(every)
    wanted = split == "heldout"
    return [c for c in every if held_out(dict(zip(VALUES, c)), split_by) == wanted]


class ShapesSource(Source):
    """See `Shapes`; fields `image` [side, side, 3], `caption`, `scene` (JSON of `Scene`)."""

    def __init__(self, settings: Shapes):
        self._settings, self.split = settings, settings.split
        self._allowed = combinations(settings.split, settings.split_by)
        self._first = SPLITS.index(settings.split) * _STRIDE

    def __len__(self) -> int:
        return self._settings.size or (5_000 if self.split == "heldout" else 50_000)

    def scene(self, i: int) -> Scene:
        """Returns what picture i holds and what its caption says."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        s = self._settings
        return scene(self._first + i, self._allowed, s.least, s.most)

    def caption(self, i: int) -> str:
        return self.scene(i).caption

    def __getitem__(self, i: int) -> Record:
        made = self.scene(i)
        image = render(made, self._settings.side)
        return {"image": image, "caption": made.caption, "scene": made.to_json()}


def render(made: Scene, side: int) -> np.ndarray:
    """Returns the picture, uint8 [side, side, 3], with smooth edges."""
    unit = side / UNITS
    ground = np.array(made.background, np.float32)
    image = np.empty((side, side, 3), np.float32)
    image[:] = ground + 0.5  # rounds when cut to whole numbers
    for thing in made.things:
        r, cx, cy = thing.radius * unit, thing.x * unit, thing.y * unit
        left, right = max(int(cx - r) - 1, 0), min(int(cx + r) + 2, side)
        top, bottom = max(int(cy - r) - 1, 0), min(int(cy + r) + 2, side)
        x = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - cx)
        y = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - cy)
        share = cover(thing.shape or "", x, y, r)
        bright = share * (1 - DARKER * darkness(thing.texture or "", x, y, unit))
        patch = image[top:bottom, left:right]  # objects lie apart, so their paints add up
        patch += bright[..., None] * np.array(thing.rgb, np.float32) - share[..., None] * ground
    return image.astype(np.uint8)
