"""Parabolas with known minima, and the power laws through them."""

import numpy as np
import pytest

from genjax.scaling import isoflop
from genjax.scaling.laws import Cost, FitSettings, Law

PRICE, SETTINGS = Cost(k=6.0, g=0.9, misfit=0.0), FitSettings(resamples=100)
BUDGETS, POWER = (1e12, 1e13, 1e14, 1e15), 0.45


def best(c):
    return 2.0 * c**POWER


def groups(noise=0.0, seed=0):
    rng, found = np.random.default_rng(seed), {}
    for c in BUDGETS:
        n = best(c) * np.geomspace(0.1, 6.0, 6)  # not symmetric about the minimum
        loss = 3 * c**-0.05 + 0.02 * np.log(n / best(c)) ** 2
        found[c] = n, loss * np.exp(rng.normal(0, noise, 6))
    return found


def test_exact_parabolas_give_minima_and_powers():
    fit = isoflop.fit(groups(), PRICE, SETTINGS)
    for p in fit.parabolas:
        assert p.found and p.params == pytest.approx(best(p.budget), rel=1e-6)
        assert p.loss == pytest.approx(3 * p.budget**-0.05, rel=1e-9)
        assert p.curvature == pytest.approx(0.02, rel=1e-6)
    assert fit.params.power == pytest.approx(POWER, rel=1e-6)
    assert fit.params(1e16) == pytest.approx(best(1e16), rel=1e-5)
    assert fit.images(1e16) == pytest.approx(PRICE.images(1e16, best(1e16)), rel=1e-5)


def test_intervals_hold_the_truth_under_noise():
    held = {"power": 0, "minimum": 0}
    for seed in range(12):
        fit = isoflop.fit(groups(0.002, seed), PRICE, SETTINGS)
        powers = np.quantile([p for _, p in fit.params.draws], [0.05, 0.95])
        held["power"] += powers[0] <= POWER <= powers[1]
        low, high = fit.edges[BUDGETS[1]]
        held["minimum"] += low <= best(BUDGETS[1]) <= high
        assert powers[1] - powers[0] < 0.1 and high < 2 * low
    assert min(held.values()) >= 8, held


def test_a_minimum_beyond_the_sizes_is_not_used():
    found = groups()
    n = best(1e16) * np.geomspace(2.0, 20.0, 5)  # all too large
    found[1e16] = n, 1 + 0.02 * np.log(n / best(1e16)) ** 2
    found[1e17] = n, -0.02 * np.log(n / n[2]) ** 2 + 1  # the wrong way round
    found[1e18] = n[:3], np.ones(3)  # too few
    fit = isoflop.fit(found, PRICE, SETTINGS)
    assert [p.budget for p in fit.parabolas] == [*BUDGETS, 1e16, 1e17]
    assert [p.found for p in fit.parabolas] == [True] * 4 + [False] * 2
    assert fit.params.power == pytest.approx(POWER, rel=1e-6)
    alone = isoflop.fit({1e16: found[1e16]}, PRICE, SETTINGS)
    assert alone.params is None and alone.images is None


def test_a_window_takes_the_bias_of_distant_sizes_away():
    """With the same sizes at every budget, what is no parabola far away turns the power law."""
    law, price = Law(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28), Cost(6.0, 1.0, 0.0)
    n, found = np.geomspace(2e7, 1e10, 15), {}
    for c in np.geomspace(1e19, 1e21, 5):
        found[c] = n, law(n, price.images(c, n))
    powers = {
        window: isoflop.fit(found, price, FitSettings(resamples=10, window=window)).params.power
        for window in (0.0, 4.0)
    }
    truth = law.exponents(price)[0]
    assert abs(powers[4.0] - truth) < 0.002 and abs(powers[0.0] - truth) > 0.01
