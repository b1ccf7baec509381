"""Which runs a sweep consists of: sizes x budgets (IsoFLOP), or sizes x images seen (parametric).

N counts the trained parameters but those of embeddings; D the images seen (of the main stream); C
the training FLOPs, forward and backward, of the model's own count: C = FLOPs an image x D.
"""

import dataclasses
import re
from collections.abc import Sequence

from genjax.core.registry import Registry, option, required


@dataclasses.dataclass(frozen=True)
class Size:
    """A network: `params` is N, `flops` those of training on one image, `batch` images a step."""

    name: str
    params: int
    flops: float
    batch: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a design: `size` trained on `images`, whole steps; `budget` is what was asked for.

    `budget` is None where the design has none; `name` is the run's folder.
    """

    name: str
    size: Size
    images: int
    budget: float | None = None

    @property
    def flops(self) -> float:
        """C as it is, after rounding to whole steps."""
        return self.size.flops * self.images


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Every budget of training FLOPs spent on every size: D = C / FLOPs an image.

    Runs outside [least_images, most_images] are left out: most_images is the size of the data where
    no image is to be seen twice.
    """

    budgets: tuple[float, ...] = required("training FLOPs (forward and backward) of the runs")
    least_images: int = option(0, "fewest images of a run")
    most_images: int = option(0, "most images of a run (0: any)")

    def __post_init__(self):
        _positive("budgets", self.budgets)
        if self.least_images < 0 or self.most_images < 0:
            raise ValueError("least_images and most_images must not be negative")

    def cells(self, sizes: Sequence[Size]) -> tuple[list[Cell], list[str]]:
        """Returns the runs, cheapest first, and the names of those left out by their images."""
        made = [
            Cell(f"{size.name}-{_short(c)}", size, whole(c / size.flops, size.batch), c)
            for c in self.budgets
            for size in sizes
        ]
        most = self.most_images or float("inf")
        kept = [cell for cell in made if self.least_images <= cell.images <= most]
        return _ordered(kept), [cell.name for cell in made if cell not in kept]


@dataclasses.dataclass(frozen=True)
class Parametric:
    """Every size trained on every number of images: what L(N, D) needs, without common budgets."""

    images: tuple[int, ...] = required("images seen by the runs (rounded to whole steps)")

    def __post_init__(self):
        _positive("images", self.images)

    def cells(self, sizes: Sequence[Size]) -> tuple[list[Cell], list[str]]:
        """Returns the runs, cheapest first; none is left out."""
        made = [
            Cell(f"{size.name}-{d}", size, whole(d, size.batch))
            for d in self.images
            for size in sizes
        ]
        return _ordered(made), []


DESIGNS = Registry("design of a sweep", {"isoflop": IsoFlop, "parametric": Parametric})


def whole(images: float, batch: int) -> int:
    """Returns the images of the whole number of steps nearest to `images`, at least one step."""
    return max(round(images / batch), 1) * batch


def _ordered(cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: cell.flops)


def _short(budget: float) -> str:
    return re.sub(r"e\+?0*", "e", f"{budget:.6g}")


def _positive(key: str, values: Sequence[float]) -> None:
    if not values or min(values) <= 0:
        raise ValueError(f"{key}: give one or more positive numbers")
    if len({_short(v) for v in values}) < len(values):
        raise ValueError(f"{key}: two of them are the same")
