"""Precision, recall, density, coverage: blocks against full tables, identities, a hand case."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import manifold
from genjax.evaluation.manifold import coverage, density, precision, recall


def four(real, fake, k, rows=1024):
    real, fake = manifold.centred(real, fake)
    balls = manifold.manifold(real, k, rows)
    own = manifold.manifold(fake, k, rows)
    return (
        float(np.mean(balls.holding(fake, rows)[0] > 0)),
        float(np.mean(own.holding(real, rows)[0] > 0)),
        float(np.mean(balls.holding(fake, rows)[1]) / k),
        float(np.mean(balls.covered(fake, rows))),
    )


def by_tables(real, fake, k):
    def table(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=-1)

    r = np.sort(table(real, real), axis=1)[:, k]
    s = np.sort(table(fake, fake), axis=1)[:, k]
    cross = table(real, fake)
    return (
        (cross <= r[:, None]).any(0).mean(),
        (cross <= s[None]).any(1).mean(),
        (cross < r[:, None]).sum(0).mean() / k,
        (cross.min(1) < r).mean(),
    )


@pytest.mark.parametrize("rows", [13, 64, 1024])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_blocks_equal_full_tables(rows, k):
    rng = np.random.default_rng(k)
    real, fake = rng.standard_normal((150, 6)), rng.standard_normal((90, 6)) * 1.3 + 0.5
    found = four(real, fake, k, rows)
    np.testing.assert_allclose(found, by_tables(real, fake, k), atol=1e-6)
    assert min(found) > 0 and found[0] < 1


def test_by_hand_on_a_line():
    # k = 1. Real 0, 1, 3: radii 1, 1, 2. Fake 0.5, 4, 9: radii 3.5, 3.5, 5.
    real, fake = np.array([[0.0], [1], [3]]), np.array([[0.5], [4], [9]])
    assert four(real, fake, 1) == pytest.approx((2 / 3, 1.0, (2 + 1 + 0) / 3, 1.0))


def test_identities():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 4)).astype(np.float32)
    p, r, d, c = four(x, x, 3)
    assert (p, r, c) == (1, 1, 1) and d >= 1
    assert four(x, x + 1000, 3) == (0, 0, 0, 0)
    a, b = rng.standard_normal((2, 1500, 4))
    assert four(a, b, 5)[2] == pytest.approx(1, abs=0.06)


def test_order_does_not_matter_and_a_far_mean_costs_no_digits():
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((2, 100, 5))
    assert four(real, fake, 3) == four(rng.permutation(real), rng.permutation(fake), 3)
    assert four(real + 300, fake + 300, 3) == four(real, fake, 3)


def test_dropped_modes_lower_recall_and_not_precision():
    rng = np.random.default_rng(2)
    centres = np.eye(4) * 20
    real = centres[rng.integers(0, 4, 400)] + rng.standard_normal((400, 4))
    fake = centres[rng.integers(0, 2, 400)] + rng.standard_normal((400, 4))
    balls, own = manifold.manifold(real, 3), manifold.manifold(fake, 3)
    assert precision(balls, np.float32(fake)) > 0.8
    assert recall(own, np.float32(real)) == pytest.approx(0.5, abs=0.1)
    assert coverage(balls, np.float32(fake)) < 0.6 and density(balls, np.float32(fake)) > 0.8


def test_too_few_points():
    with pytest.raises(UserError, match="needs more than 3 images, not 3"):
        manifold.manifold(np.zeros((3, 2)), 3)
