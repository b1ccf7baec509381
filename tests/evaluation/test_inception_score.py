"""The Inception Score's two extremes, its splits, and a hand value."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation.inception_score import inception_score


def test_one_hot_over_k_classes_is_k_and_a_constant_is_one():
    logits = 200.0 * np.eye(10)[np.arange(100) % 10]
    mean, std = inception_score(logits, splits=1)
    assert mean == pytest.approx(10, abs=1e-9) and std == 0
    assert inception_score(np.ones((50, 7)), splits=5) == pytest.approx((1, 0), abs=1e-12)


def test_by_hand():
    p = np.array([[0.5, 0.5], [0.9, 0.1]])
    q = p.mean(0)
    want = np.exp(np.mean(np.sum(p * np.log(p / q), axis=1)))
    assert inception_score(np.log(p) + 5, splits=1)[0] == pytest.approx(want, abs=1e-12)


def test_splits_in_order_and_shuffled():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((101, 5)) + 3 * np.eye(5)[np.arange(101) * 5 // 101]
    parts = [
        inception_score(logits[i * 101 // 4 : (i + 1) * 101 // 4], splits=1)[0] for i in range(4)
    ]
    mean, std = inception_score(logits, splits=4, shuffle=False)
    assert (mean, std) == pytest.approx((np.mean(parts), np.std(parts)), abs=1e-12)
    assert inception_score(logits, splits=4)[0] > mean + 0.5  # sorted by class, splits are poor
    with pytest.raises(UserError, match="10 splits need at least as many images, not 5"):
        inception_score(logits[:5])
