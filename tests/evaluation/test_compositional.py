"""GenEval's and T2I-CompBench's logic on boxes made by hand."""

import pytest

from genjax.core.errors import UserError
from genjax.evaluation.compositional import (
    Verdict,
    attribute_score,
    complex_score,
    geneval_score,
    relations,
    verdict,
)


def thing(name, x=0, y=0, size=10, score=0.95, **more):
    return {"class": name, "score": score, "box": [x, y, x + size, y + size], **more}


def one(name, count=1, **more):
    return {"class": name, "count": count, **more}


def test_presence_and_thresholds():
    prompt = {"tag": "single_object", "include": [one("cat")]}
    assert verdict([thing("cat", score=0.31)], prompt).correct
    assert not verdict([thing("cat", score=0.30)], prompt).correct
    missing = verdict([thing("dog")], prompt)
    assert not missing.correct and missing.reasons == ("0 cat, 1 wanted",)


def test_counting_is_exact_and_strict():
    prompt = {
        "tag": "counting",
        "include": [one("cat", 2)],
        "exclude": [one("cat", 3)],
    }
    cats = [thing("cat", x=20 * i) for i in range(3)]
    assert verdict(cats[:2], prompt).correct
    assert not verdict(cats[:1], prompt).correct
    assert verdict(cats, prompt).reasons == ("3 cat, fewer than 3 were wanted",)
    unsure = [*cats[:2], thing("cat", score=0.89)]
    assert verdict(unsure, prompt).correct  # 0.9 is the threshold here
    many = {"tag": "counting", "include": [one("cat", 16)], "exclude": [one("cat", 17)]}
    assert verdict([thing("cat")] * 30, many).correct  # no more than 16 are looked at


def test_colours_are_those_of_the_surest_objects():
    prompt = {"tag": "color_attr", "include": [one("cat", color="red"), one("dog", color="blue")]}
    right = [thing("cat", color="red"), thing("dog", color="blue")]
    assert verdict(right, prompt).correct
    swapped = [thing("cat", color="blue"), thing("dog", color="red")]
    assert len(verdict(swapped, prompt).reasons) == 2
    surer = [*right, thing("cat", score=0.99, color="green")]
    assert not verdict(surer, prompt).correct


@pytest.mark.parametrize(
    "at, found",
    [
        ((-30, 0), {"left of"}),
        ((30, 0), {"right of"}),
        ((0, -30), {"above"}),
        ((0, 30), {"below"}),
        ((-30, -30), {"left of", "above"}),
        ((1.9, 0), set()),  # within a tenth of both sizes
        ((30, 10), {"right of"}),
        ((4, 0), set()),  # (4 - 2) / 4 = 0.5 is not beyond
        ((4.1, 0), {"right of"}),
    ],
)
def test_relations(at, found):
    a, b = thing("cat", *at)["box"], thing("dog")["box"]
    assert relations(a, b) == found
    opposite = {"left of": "right of", "above": "below"}
    opposite |= {v: k for k, v in opposite.items()}
    assert relations(b, a) == {opposite[r] for r in found}


def test_positions_refer_to_groups():
    prompt = {"tag": "position", "include": [one("dog"), one("cat", position=["left of", 0])]}
    dog = thing("dog", x=50)
    assert verdict([dog, thing("cat", x=0)], prompt).correct
    assert verdict([dog, thing("cat", x=90)], prompt).reasons == ("cat not left of dog",)
    alone = verdict([thing("cat")], prompt)
    assert alone.reasons == ("0 dog, 1 wanted", "nothing for cat to be left of")


def test_score_is_the_mean_over_tags_not_images():
    found = [Verdict("counting", True), Verdict("counting", False), Verdict("colors", True)]
    assert geneval_score([*found, Verdict("colors", True)]) == {
        "colors": 1.0,
        "counting": 0.5,
        "overall": 0.75,
    }
    # The rows published for Stable Diffusion 1.5, whose mean is 0.43.
    shares = {"a": 97, "b": 38, "c": 35, "d": 76, "e": 4, "f": 6}
    rows = [Verdict(t, i < n) for t, n in shares.items() for i in range(100)]
    assert geneval_score(rows)["overall"] == pytest.approx(0.4266667)
    with pytest.raises(UserError, match="no verdicts"):
        geneval_score([])


def test_other_forms_of_json_are_one_line():
    good = {"tag": "position", "include": [one("dog"), one("cat", position=["left of", 0])]}
    pair = [thing("dog"), thing("cat")]
    for detections, prompt in (
        ([{"class": "cat"}], good),
        (pair, {"include": [one("cat")]}),
        (pair, {"tag": "x", "include": [one("cat", position=["near", 0])]}),
        (pair, {"tag": "x", "include": [one("cat", position=["left of", 4])]}),
        (pair, {"tag": "x", "include": [one("cat", color="red")]}),
    ):
        with pytest.raises(UserError, match="geneval: detections or prompt"):
            verdict(detections, prompt)


def test_t2i_compbench():
    assert attribute_score([0.5, 0.5, 1.0]) == 0.25
    assert complex_score(0.3, 0.6, 0.9) == pytest.approx(0.6)
    for wrong in ([], [1.2]):
        with pytest.raises(UserError, match="probabilities of yes"):
            attribute_score(wrong)
