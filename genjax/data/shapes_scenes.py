"""How the data set `shapes` makes up a scene: what is in it, where it lies, what is said of it.

A layout is a tree of cuts: an object, or (axis, first, second) with `first` on the left or on top.
Cutting twice at most leaves room for four large objects, and makes every relation that a caption
states plain to see: the objects' squares are apart along its axis.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from genjax.core.scenes import (
    COLOURS,
    GAP,
    MARGIN,
    RELATIONS,
    SIZE_JITTER,
    SIZES,
    UNITS,
    Group,
    Scene,
    Statement,
    Thing,
)
from genjax.data.shapes_captions import caption

Combination = tuple[str, str, str, str]  # colour, shape, texture, size
Coin = Callable[[], float]
Layout = Any  # int | tuple[str, Layout, Layout]
Box = tuple[float, float, float, float]  # x from, y from, x to, y to

# How a picture of n objects is composed: (share, counts of its groups, kind of relation).
_PLANS = {
    1: ((1.0, (1,), "none"),),
    2: ((0.2, (2,), "none"), (0.8, (1, 1), "pair")),
    3: (
        (0.2, (3,), "none"),
        (0.2, (1, 2), "pair"),
        (0.2, (2, 1), "pair"),
        (0.2, (1, 1, 1), "third"),
        (0.1, (1, 1, 1), "of both"),
        (0.1, (1, 1, 1), "both of"),
    ),
    4: ((0.2, (4,), "none"), (0.4, (2, 2), "pair"), (0.4, (1, 1, 1, 1), "two pairs")),
}


def scene(number: int, allowed: Sequence[Combination], least: int, most: int) -> Scene:
    """Returns the scene of this number with `least` to `most` objects, all of `allowed` kinds."""
    # Only `random()` of this class is promised to stay the same in all versions of Python.
    coin = random.Random(number).random
    counts, kind = _plan(least + int(coin() * (most - least + 1)), coin)
    kinds: list[Combination] = []
    while len(kinds) < len(counts):
        new = allowed[int(coin() * len(allowed))]
        if all(new[:2] != old[:2] for old in kinds):  # or "a red circle" would mean two things
            kinds.append(new)
    groups, members, drawn = [], [], []
    for count, (colour, shape, texture, size) in zip(counts, kinds):
        said_size = size if coin() < 0.5 else None
        said_texture = texture if coin() < 0.5 else None
        groups.append(Group(count, shape, colour, said_size, said_texture))
        members.append(list(range(len(drawn), len(drawn) + count)))
        for _ in range(count):
            radius = SIZES[size] * (1 + SIZE_JITTER * (2 * coin() - 1))
            red, green, blue = (min(255, c + int(25 * coin()) - 12) for c in COLOURS[colour])
            rgb = (red, green, blue)
            drawn.append(Thing(shape, colour, texture, size, 0.0, 0.0, radius, rgb))
    layout, relations = _compose(members, kind, coin)
    middles: dict[int, tuple[float, float]] = {}
    _place(layout, (MARGIN, MARGIN, UNITS - MARGIN, UNITS - MARGIN), drawn, coin, middles)
    things = tuple(
        dataclasses.replace(t, x=middles[k][0], y=middles[k][1]) for k, t in enumerate(drawn)
    )
    grey = 200 + int(46 * coin())
    background = (grey + int(11 * coin()) - 5, grey, grey + int(11 * coin()) - 5)
    statement = Statement(tuple(groups), relations)
    return Scene(things, background, statement, caption(statement, coin))


def _plan(n: int, coin: Coin) -> tuple[tuple[int, ...], str]:
    toss = coin()
    for share, counts, kind in _PLANS[n]:
        toss -= share
        if toss < 0:
            return counts, kind
    return _PLANS[n][-1][1:]  # the shares add up to one but for rounding


def _compose(members: list[list[int]], kind: str, coin: Coin):
    """Returns the layout and the relations (group, name, group) that a caption will state."""
    if kind == "none":
        return _scatter(members[0], coin), ()
    names = tuple(RELATIONS)
    name = names[int(coin() * 4)]
    axis = RELATIONS[name][0]
    cross = "y" if axis == "x" else "x"
    if kind == "pair":
        first, second = (_row(m, cross) for m in members)
        return _cut(name, first, second), ((0, name, 1),)
    a, b, c, *rest = (m[0] for m in members)
    if kind == "of both":
        return _cut(name, a, (cross, b, c)), ((0, name, 1), (0, name, 2))
    if kind == "both of":
        return _cut(name, (cross, a, b), c), ((0, name, 2), (1, name, 2))
    across = [n for n in names if RELATIONS[n][0] == cross]
    inner = across[int(coin() * 2)]
    if kind == "third":
        pair = _cut(inner, a, b)
        return _cut(name, c, pair), ((0, inner, 1), (2, name, 0), (2, name, 1))
    other = across[int(coin() * 2)]
    by = tuple((k, name, m) for k in (2, 3) for m in (0, 1))
    layout = _cut(name, _cut(other, c, rest[0]), _cut(inner, a, b))
    return layout, ((0, inner, 1), (2, other, 3), *by)


def _cut(name: str, first: Layout, second: Layout) -> Layout:
    """Returns the layout in which `first` lies on that side of `second`."""
    axis, sign = RELATIONS[name]
    return (axis, first, second) if sign < 0 else (axis, second, first)


def _row(things: list[int], axis: str) -> Layout:
    return things[0] if len(things) == 1 else (axis, things[0], things[1])


def _scatter(things: list[int], coin: Coin) -> Layout:
    if len(things) == 1:
        return things[0]
    axis, cross = ("x", "y") if coin() < 0.5 else ("y", "x")
    half = (len(things) + 1) // 2 if coin() < 0.5 else len(things) // 2
    return (axis, _row(things[:half], cross), _row(things[half:], cross))


def _need(layout: Layout, axis: str, things: Sequence[Thing]) -> float:
    """Returns the least length of the layout along the axis."""
    if isinstance(layout, int):
        return 2 * things[layout].radius
    first, second = (_need(part, axis, things) for part in layout[1:])
    return first + GAP + second if layout[0] == axis else max(first, second)


def _place(layout: Layout, box: Box, things: Sequence[Thing], coin: Coin, middles: dict) -> None:
    """Puts every object at a random place of its part of the box."""
    x0, y0, x1, y1 = box
    if isinstance(layout, int):
        r = things[layout].radius
        x, y = (a + r + coin() * (b - a - 2 * r) for a, b in ((x0, x1), (y0, y1)))
        middles[layout] = (round(x, 3), round(y, 3))
        return
    axis, first, second = layout
    low, high = (x0, x1) if axis == "x" else (y0, y1)
    low += _need(first, axis, things)
    high -= _need(second, axis, things) + GAP
    at = low + coin() * (high - low)
    near = (x0, y0, at, y1) if axis == "x" else (x0, y0, x1, at)
    far = (at + GAP, y0, x1, y1) if axis == "x" else (x0, at + GAP, x1, y1)
    _place(first, near, things, coin, middles)
    _place(second, far, things, coin, middles)
