import dataclasses

import pytest

from genjax.core.errors import UserError
from genjax.core.registry import Registry, choice, choices, construct, expand, option, required


@dataclasses.dataclass(frozen=True)
class Round:
    radius: float = option(1.0, "radius")
    marks: tuple[int, ...] = option((), "marks")

    def __post_init__(self):
        if self.radius < 0:
            raise ValueError("radius must not be negative")


@dataclasses.dataclass(frozen=True)
class Box:
    side: int = required("side length")


SHAPES = Registry("shape", {"round": Round, "box": Box}, {"round": {"big": {"radius": 9.0}}})


@dataclasses.dataclass(frozen=True)
class Scene:
    main: Round | Box = choice(SHAPES, {"name": "round"}, "the main shape")
    more: dict[str, object] = choices(SHAPES, {}, "others by name")
    seed: int | None = option(None, "seed")
    inner: Round = option(Round(), "a section")


def test_defaults_and_nested_choices_are_filled_in_and_built():
    full = expand(Scene, {"more": {"a": {"name": "box", "side": 3}}, "inner": {"radius": 2}}, "c")
    assert full["main"] == {"name": "round", "radius": 1.0, "marks": ()}
    assert expand(Scene, full, "c") == full
    scene = construct(Scene, full)
    assert scene.more["a"] == Box(3) and scene.inner == Round(2.0)


def test_a_choice_without_a_name_changes_the_default_choice():
    full = expand(Scene, {"main": {"radius": 4}}, "c")
    assert full["main"] == {"name": "round", "radius": 4.0, "marks": ()}


def test_variant_gives_fields_that_the_choice_may_override():
    assert SHAPES.build({"name": "round", "variant": "big"}) == Round(9.0)
    assert SHAPES.build({"name": "round", "variant": "big", "radius": 3}) == Round(3.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mian": {}}, "c.mian: unknown key"),
        ({"main": {"name": "cube"}}, "'cube' is no shape; choose one of ['box', 'round']"),
        ({"main": {"name": "box", "radius": 1}}, "c.main.radius: unknown key"),
        ({"main": {"name": "box"}}, "c.main.side: this key must be given"),
        ({"main": {"name": "round", "radius": "x"}}, "c.main.radius: expected float, got 'x'"),
        ({"main": {"name": "round", "variant": "huge"}}, "c.main.variant: 'huge' is unknown"),
        ({"main": {"name": "round", "marks": [1.5]}}, "c.main.marks[0]: expected int"),
        ({"seed": True}, "c.seed: expected"),
        ({"inner": 3}, "c.inner: expected"),
    ],
)
def test_what_is_wrong_is_named(given, words):
    with pytest.raises(UserError) as error:
        expand(Scene, given, "c")
    assert words in str(error.value)


def test_a_value_out_of_range_names_the_section():
    with pytest.raises(UserError, match=r"c.main: radius must not be negative"):
        construct(Scene, expand(Scene, {"main": {"name": "round", "radius": -1}}, "c"), "c")
