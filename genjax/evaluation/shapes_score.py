"""Does a picture show what its caption says? For captions of the data set `shapes`.

`parse` understands the grammar of `genjax.data.shapes_captions`, `judge` compares with what
`genjax.evaluation.shapes.read` found; `ShapesRight` is the metric of `genjax eval`.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from genjax.core.errors import UserError
from genjax.core.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Group,
    Statement,
    Thing,
    held_out,
    holds,
)
from genjax.evaluation.metrics import Evidence, Value
from genjax.evaluation.shapes import read

_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
_THINGS = re.compile(
    rf"\b({'|'.join(_COUNTS)})(?: ({'|'.join(SIZES)}))?(?: ({'|'.join(TEXTURES)}))?"
    rf" ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:es|s)?\b"
)
_RELATION = re.compile(r"\b(?:to the )?(left of|right of|above|over|below|under)\b")
_SYNONYMS = {"over": "above", "under": "below"}
# Sentence, # for things and ~ for a relation -> (group, which relation, group).
_SENTENCES = {
    "#": (),
    "# ~ #": ((0, 0, 1),),
    "# ~ # and #": ((0, 0, 1), (0, 0, 2)),
    "# and # ~ #": ((0, 0, 2), (1, 0, 2)),
    "# ~ #, with # ~ them": ((0, 0, 1), (2, 1, 0), (2, 1, 1)),
    "# ~ #, with # ~ # ~ them": (
        ((0, 0, 1), (2, 1, 3), (2, 2, 0), (2, 2, 1), (3, 2, 0), (3, 2, 1))
    ),
}


def parse(caption: str) -> Statement:
    """Returns what the caption says; raises `UserError` for a sentence outside the grammar."""
    text = " ".join(caption.lower().removesuffix(".").split()).removeprefix("a picture of ")
    groups = tuple(
        Group(_COUNTS[count], shape, colour, size or None, texture or None)
        for count, size, texture, colour, shape in _THINGS.findall(text)
    )
    text = _THINGS.sub("#", text)
    names = [_SYNONYMS.get(name, name) for name in _RELATION.findall(text)]
    pairs = _SENTENCES.get(_RELATION.sub("~", text))
    if pairs is None:
        raise UserError(
            f"{caption!r} is no caption of the data set shapes, such as 'a small red circle above "
            "two blue squares'; take captions of that data set"
        )
    return Statement(groups, tuple((a, names[k], b) for a, k, b in pairs))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How much of a statement a picture shows: what is right, out of how many.

    `objects`: have their colour and shape; `attributes`: the sizes and textures that are said;
    `count`: the picture holds as many objects as are said; `held_out`: the objects of colours and
    shapes that training does not show together.
    """

    objects: tuple[int, int]
    attributes: tuple[int, int]
    relations: tuple[int, int]
    held_out: tuple[int, int]
    count: bool

    @property
    def right(self) -> bool:
        """Everything is."""
        all_of_it = (self.objects, self.attributes, self.relations)
        return self.count and all(a == b for a, b in all_of_it)


def judge(things: Sequence[Thing], statement: Statement) -> Verdict:
    """Returns how much of the statement the objects found in a picture fulfil.

    Said objects and found ones are paired one to one so that most colours and shapes, then most
    sizes and textures agree. A relation is right where all objects of both groups are there, and
    all of the first lie on that side of all of the second.
    """
    said = [(k, group) for k, group in enumerate(statement.groups) for _ in range(group.count)]
    named = np.array([[_same(t, g) for t in things] for _, g in said]).reshape(len(said), -1)
    details = np.array([[_details(t, g) for t in things] for _, g in said]).reshape(len(said), -1)
    rows, columns = linear_sum_assignment(named * (1 + 0.1 * details), maximize=True)
    paired = {int(r): int(c) for r, c in zip(rows, columns) if named[r, c]}
    wanted = sum((g.size is not None) + (g.texture is not None) for _, g in said)
    unusual = [r for r, (_, g) in enumerate(said) if held_out(vars(g))]
    members: list[list[Thing]] = [[] for _ in statement.groups]
    for row, column in paired.items():
        members[said[row][0]].append(things[column])
    complete = [len(m) == g.count for m, g in zip(members, statement.groups)]
    fulfilled = [
        complete[a] and complete[b] and holds(name, members[a], members[b])
        for a, name, b in statement.relations
    ]
    return Verdict(
        (len(paired), len(said)),
        (sum(int(details[r, c]) for r, c in paired.items()), wanted),
        (sum(fulfilled), len(fulfilled)),
        (sum(r in paired for r in unusual), len(unusual)),
        len(things) == len(said),
    )


def _same(thing: Thing, group: Group) -> bool:
    return thing.shape == group.shape and thing.colour == group.colour


def _details(thing: Thing, group: Group) -> int:
    pairs = ((group.size, thing.size), (group.texture, thing.texture))
    return sum(said is not None and said == found for said, found in pairs)


def score(image: np.ndarray, caption: str) -> Verdict:
    """Returns how much of its caption a picture, uint8 [32 k, 32 k, 3], shows."""
    return judge(read(image), parse(caption))


@dataclasses.dataclass(frozen=True)
class ShapesRight:
    """The share of the captions' objects that the pictures of `shapes` show, read off exactly."""

    extractor = None
    samples = frozenset({"images", "captions"})
    reference = frozenset()

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns the share of objects with their colour and shape.

        Details: the shares of counts, relations, sizes and textures, of pictures with all objects
        and with everything right, and of objects of held-out combinations.
        """
        images = samples.images
        assert images is not None and images.captions is not None
        statements = [parse(c) for c in images.captions]
        verdicts: list[Verdict] = []
        for first, block in images.blocks(256):
            try:
                found = [read(image) for image in block]
            except ValueError as error:
                raise UserError(f"{images.name}: {error}") from error
            verdicts += [judge(t, statements[first + i]) for i, t in enumerate(found)]
        of = {
            name: np.array([getattr(v, name) for v in verdicts])
            for name in ("objects", "attributes", "relations", "held_out")
        }
        right, said = of["objects"].T
        value = right.sum() / said.sum()
        # Objects of one picture fail together, so pictures are what is drawn at random.
        error = np.sqrt(np.mean((right - value * said) ** 2) / len(said)) / said.mean()
        shares = {k: float(v[:, 0].sum() / v[:, 1].sum()) for k, v in of.items() if v[:, 1].sum()}
        shares["count"] = float(np.mean([v.count for v in verdicts]))
        shares["pictures_objects"] = float(np.mean(right == said))
        shares["pictures"] = float(np.mean([v.right for v in verdicts]))
        return Value(
            float(value),
            "shapes",
            "share of said objects whose colour and shape an exact reading of the picture finds, "
            "one to one",
            {"standard_error": float(error), **shares},
        )
