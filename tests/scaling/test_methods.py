"""Evolution on AutoDiffusion's closed-form problem (autodiffusion.md, section 9a)."""

import functools
import itertools

import numpy as np
import pytest

from genjax.scaling.methods import METHODS, Evolution, Exhaustive, Random
from genjax.scaling.spaces import Product, Schedules

STDS = np.array([1.0, 0.5, 0.2, 0.1])
INDICES = np.arange(24, 1000, 25)[::-1]  # 40 legal times, from noise to data
BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def fitness(candidate) -> float:
    """Sum of (std - true std)^2 after DDIM with the exact noise, from N(0, 1) to level 1."""
    bar = np.append(BAR[INDICES[[t for t, _ in candidate]]], 1.0)
    std = np.ones(4)
    for now, then in itertools.pairwise(bar):
        gain = np.sqrt(now) * STDS**2 / (now * STDS**2 + 1 - now)
        noise = (1 - np.sqrt(now) * gain) / np.sqrt(1 - now)
        std = std * (np.sqrt(then) * gain + np.sqrt(1 - then) * noise)
    return float(np.sum((std - STDS) ** 2))


def indices(candidate):
    return sorted(int(INDICES[t]) for t, _ in candidate)


def last(method, space, seed, score=fitness):
    *_, ranking = method.run(space, score, np.random.default_rng(seed))
    return ranking


@pytest.mark.parametrize(
    ("k", "best", "value"), [(2, [74, 199], 0.014036), (3, [49, 149, 224], 0.010031)]
)
def test_all_candidates_contain_the_sheets_optimum(k, best, value):
    found, candidate = last(Exhaustive(), Schedules(40, k), 0)[0]
    assert indices(candidate) == best and found == pytest.approx(value, abs=1e-6)


def test_evolution_finds_it_and_random_search_does_not():
    space, best = Schedules(40, 4), 0.0077997
    score = functools.cache(fitness)
    optimum = tuple((int(np.flatnonzero(i == INDICES)[0]), ()) for i in (249, 174, 124, 24))
    assert fitness(optimum) == pytest.approx(best, abs=1e-6)
    found = [last(Evolution(crossings=10), space, seed, score)[0][0] for seed in range(40)]
    drawn = [last(Random(550), space, seed, score)[0][0] for seed in range(40)]
    assert sum(value <= 1.2 * best for value in found) >= 36
    assert np.median(found) < np.median(drawn)
    assert min(found) == pytest.approx(best, abs=1e-6)


def test_a_generation_is_what_the_paper_says():
    sizes, seen = [], []

    def score(candidate):
        seen.append(candidate)
        return fitness(candidate)

    method = Evolution(generations=3)
    for ranking in method.run(Schedules(40, 4), score, np.random.default_rng(0)):
        sizes.append(len(seen))
        values = [value for value, _ in ranking]
        assert values == sorted(values) and len(ranking) == len(seen)
    assert sizes == [50, 100, 150, 200]
    assert len(set(seen)) == len(seen)  # none is evaluated twice
    assert seen[0] == Schedules(40, 4).first()


def test_the_share_of_blocks_rises_in_five_generations():
    method = Evolution()
    shares = [method.share(g, 0.2) for g in range(13)]
    np.testing.assert_allclose(shares, [0] * 6 + [0.04, 0.08, 0.12, 0.16, 0.2, 0.2, 0.2])


def test_equal_values_repeat_the_same_course():
    def course(score):
        return [r[0] for r in Evolution(generations=2).run(
            Schedules(40, 4, 12, 6), score, np.random.default_rng(3), 0.3
        )]  # fmt: skip

    assert course(fitness) == course(functools.cache(fitness))


def test_a_small_space_ends_and_bad_values_go_last():
    space = Product({"a": (1, 2), "b": (1, 2, 3)})

    def score(c):
        return float("nan") if c == (0, 0) else -sum(c)

    for method in (Evolution(), Random(), Exhaustive()):
        ranking = last(method, space, 0, score)
        assert len(ranking) <= 6 and ranking[0] == (-3.0, (1, 2))
        assert ranking[-1][1] == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"population": 0},
        {"elites": 0},
        {"mutants": -1},
        {"mutants": 40, "crossings": 11},
        {"mutation": 1.5},
        {"generations": -1},
    ],
)
def test_fields_out_of_range(wrong):
    with pytest.raises(Exception, match=next(iter(wrong)) if len(wrong) == 1 else "population"):
        METHODS.build({"name": "evolution", **wrong})
