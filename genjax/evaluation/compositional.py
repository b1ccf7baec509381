"""Verdicts of the text-to-image benchmarks GenEval and T2I-CompBench from what detectors found.

Detectors and question answering run elsewhere; here is the logic, pure functions of their JSON:

    prompt      {"tag": "position", "include": [{"class": "cat", "count": 1},
                 {"class": "dog", "count": 1, "position": ["left of", 0]}], "exclude": [...]}
    detections  [{"class": "dog", "score": 0.93, "box": [x0, y0, x1, y1], "color": "brown"}, ...]

as in GenEval's `evaluation_metadata.jsonl`; boxes in pixels, y downwards.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from genjax.core.errors import UserError

# GenEval's constants (Ghosh et al. 2023).
THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MOST = 16  # objects of a class that are looked at, the surest ones
SLACK, COMPONENT = 0.1, 0.5
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether an image shows its prompt, and if not, what is wrong."""

    tag: str
    correct: bool
    reasons: tuple[str, ...] = ()


def verdict(detections: Sequence[Mapping[str, Any]], prompt: Mapping[str, Any]) -> Verdict:
    """Returns GenEval's verdict on one image.

    Of each class the objects above the threshold count (0.3; 0.9 for the tag counting), the surest
    16. An entry of `include` needs `count` objects; the surest `count` of them are the group that
    colours and relations are asked of, and every pair of two groups must be in the relation. An
    entry of `exclude` allows fewer than `count`. Raises `UserError` for JSON of another form.
    """
    try:
        return _verdict(detections, prompt)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(
            f"geneval: detections or prompt are not as expected ({type(error).__name__}: {error}); "
            "see genjax.evaluation.compositional"
        ) from error


def _verdict(detections: Sequence[Mapping[str, Any]], prompt: Mapping[str, Any]) -> Verdict:
    tag = prompt["tag"]
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    objects: dict[str, list[Mapping[str, Any]]] = {}
    for thing in sorted(detections, key=lambda d: -d["score"]):
        if thing["score"] > threshold and len(objects.get(thing["class"], ())) < MOST:
            objects.setdefault(thing["class"], []).append(thing)
    reasons: list[str] = []
    groups: list[list[Mapping[str, Any]] | None] = []
    for wanted in prompt.get("include", ()):
        group = objects.get(wanted["class"], [])[: wanted["count"]]
        wrong = _wrong(wanted, group, groups)
        groups.append(None if wrong else group)
        reasons += [wrong] if wrong else []
    for barred in prompt.get("exclude", ()):
        found = len(objects.get(barred["class"], ()))
        if found >= barred["count"]:
            reasons.append(f"{found} {barred['class']}, fewer than {barred['count']} were wanted")
    return Verdict(tag, not reasons, tuple(reasons))


def _wrong(wanted: Mapping[str, Any], group: list, groups: list) -> str:
    """Returns what is wrong with the group that an entry of the prompt wants; "" if nothing is."""
    name, count = wanted["class"], wanted["count"]
    if len(group) < count:
        return f"{len(group)} {name}, {count} wanted"
    if "color" in wanted:
        right = sum(thing["color"] == wanted["color"] for thing in group)
        if right < count:
            return f"{right} {wanted['color']} {name}, {count} wanted"
    if "position" in wanted:
        relation, other = wanted["position"]
        if relation not in RELATIONS:
            raise ValueError(f"relation {relation!r}")
        if groups[other] is None:
            return f"nothing for {name} to be {relation}"
        for thing in group:
            for target in groups[other]:
                if relation not in relations(thing["box"], target["box"]):
                    return f"{name} not {relation} {target['class']}"
    return ""


def relations(box: Sequence[float], other: Sequence[float]) -> frozenset[str]:
    """Returns which of left of, right of, above, below `box` is of `other`.

    The offset of the centres, shortened along either side by a tenth of both boxes' sizes, over
    the length of the whole offset: a component beyond 0.5 says so.
    """
    a, b = (np.asarray(v, np.float64).reshape(2, 2) for v in (box, other))
    offset = a.mean(0) - b.mean(0)
    sizes = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    beyond = np.sign(offset) * np.maximum(np.abs(offset) - SLACK * sizes, 0.0)
    if np.all(np.abs(beyond) < 1e-3):
        return frozenset()
    dx, dy = beyond / np.linalg.norm(offset)
    held = (dx < -COMPONENT, dx > COMPONENT, dy < -COMPONENT, dy > COMPONENT)
    return frozenset(name for name, holds in zip(RELATIONS, held) if holds)


def geneval_score(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Returns the share of right images of every tag, and "overall": their unweighted mean.

    Raises `UserError` for no verdicts.
    """
    by_tag: dict[str, list[bool]] = {}
    for one in verdicts:
        by_tag.setdefault(one.tag, []).append(one.correct)
    if not by_tag:
        raise UserError("geneval: there are no verdicts; give detections of at least one image")
    shares = {tag: float(np.mean(right)) for tag, right in sorted(by_tag.items())}
    return {**shares, "overall": float(np.mean(list(shares.values())))}


def attribute_score(probabilities: Sequence[float]) -> float:
    """Returns T2I-CompBench's score of colours, shapes and textures of one image.

    `probabilities`: those of "yes" to a question for each noun phrase of the prompt; the score is
    their product. Raises `UserError` for none, and for values outside 0..1.
    """
    if not probabilities or not all(0.0 <= p <= 1.0 for p in probabilities):
        raise UserError(
            f"t2i-compbench: expected probabilities of yes in 0..1, found {list(probabilities)}"
        )
    return math.prod(probabilities)


def complex_score(attributes: float, spatial: float, clip: float) -> float:
    """Returns T2I-CompBench's score of complex prompts: the mean of the three others."""
    return (attributes + spatial + clip) / 3.0
