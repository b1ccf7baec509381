"""Operators keep candidates legal, and genes stay together."""

import itertools

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.scaling.spaces import Product, Schedules, StepSpace

JOINT = Schedules(times=40, steps=4, blocks=12, most=7)


def legal(space, c, share):
    times = [t for t, _ in c]
    assert times == sorted(set(times)) and times[0] >= 0 and times[-1] < space.times
    assert space.cost(c) <= space.budget
    assert space.steps <= len(c) <= max(space.most, space.steps)
    for _, skipped in c:
        assert list(skipped) == sorted(set(skipped)) and len(skipped) <= int(share * space.blocks)
        assert all(0 <= b < space.blocks for b in skipped)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_every_operator_keeps_the_budget_and_distinct_times(share):
    rng = np.random.default_rng(0)
    pool = [JOINT.random(rng, share) for _ in range(300)]
    pool += [JOINT.mutate(rng, c, 0.4, share) for c in pool]
    pool += [JOINT.cross(rng, a, b, share) for a, b in itertools.pairwise(pool)]
    for c in pool:
        legal(JOINT, c, share)
    lengths = {len(c) for c in pool}
    assert lengths == ({4} if share == 0 else {4, 5} if share == 0.3 else lengths)
    assert share < 0.6 or max(lengths) == 7
    assert (share == 0) == all(not skipped for c in pool for _, skipped in c)
    legal(JOINT, JOINT.first(), share)


def test_a_mutated_time_keeps_its_blocks_and_blocks_mutate_too():
    rng = np.random.default_rng(1)
    parent = tuple((t, (b,)) for t, b in ((2, 0), (11, 5), (23, 7), (38, 9)))
    space = Schedules(times=40, steps=4, blocks=12, most=4)
    moved = blocks = 0
    for _ in range(400):
        child = space.mutate(rng, parent, 0.3, 0.5)
        kept = dict(child)
        for t, skipped in parent:
            if t in kept and kept[t] != skipped:
                blocks += 1
        moved += sum(t not in dict(parent) for t in kept)
    assert 0.25 < moved / 1600 < 0.35  # every gene with probability 0.3, never to a taken time
    # Blocks of unmoved times: 0.3, but for drawing the same or none again.
    assert 0.2 < blocks / (1600 - moved) < 0.32
    assert space.mutate(rng, parent, 0.0, 0.5) == parent


def test_crossing_takes_whole_genes():
    rng = np.random.default_rng(2)
    a = tuple((t, (0,)) for t in (0, 10, 20, 30))
    b = tuple((t, (1,)) for t in (5, 15, 25, 35))
    space = Schedules(times=40, steps=4, blocks=12, most=4)
    seen = {space.cross(rng, a, b, 0.5) for _ in range(500)}
    assert seen == set(itertools.product(*zip(a, b)))


def test_a_small_space_is_filled_by_repeated_times():
    space = Schedules(times=3, steps=3)
    rng = np.random.default_rng(0)
    assert {space.cross(rng, space.first(), space.first(), 0.0) for _ in range(9)} == {
        space.first()
    }
    assert list(Schedules(4, 2).all()) == [
        ((i, ()), (j, ())) for i, j in itertools.combinations(range(4), 2)
    ]
    assert Schedules(1000, 4).first() == tuple((i, ()) for i in (0, 250, 500, 750))


def test_products_choose_a_value_a_key():
    space = Product({"inputs.top": (1.0, 0.9), "inputs.bottom": (0.5, 0.6, 0.7)})
    assert space.keys == ("inputs.bottom", "inputs.top")
    assert space.changes((2, 1)) == {"inputs.bottom": 0.7, "inputs.top": 0.9}
    assert len(list(space.all())) == 6 and space.first() == (0, 0)
    rng = np.random.default_rng(0)
    assert {space.random(rng, 0) for _ in range(200)} == set(space.all())
    assert space.mutate(rng, (2, 1), 0.0, 0) == (2, 1)
    assert {space.cross(rng, (0, 0), (2, 1), 0) for _ in range(99)} == {
        (0, 0), (0, 1), (2, 0), (2, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 5, "choices": 4},
        {"steps": 2, "prune": 1.0},
        {"steps": 3, "most": 2},
        {"steps": 2, "end": True, "prune": 0.1},
    ],
)
def test_fields_that_make_no_space_are_refused(wrong):
    with pytest.raises(UserError, match=r"space: (steps|prune|most|end): "):
        construct(StepSpace, expand(StepSpace, wrong, "space"), "space")
    with pytest.raises(ValueError, match="values"):
        Product({})


def test_an_end_is_one_time_more():
    space = construct(StepSpace, expand(StepSpace, {"steps": 4, "end": True}, "s"), "s")
    assert space.bind(12).steps == 5 and space.bind(12).blocks == 0
