"""KID and CMMD against their definitions and a closed form."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation.kernel import cmmd, gaussian_mmd, kid, polynomial_mmd


def test_kid_by_hand():
    # d = 1: k(a, b) = (a b + 1)^3. x = {0, 1}, y = {1, 2}.
    # Within: k(0, 1) = 1 and k(1, 2) = 27, diagonals left out; across: 1, 1, 8, 27.
    got = polynomial_mmd(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]))
    assert got == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4, abs=1e-12)


def test_kid_of_shifted_gaussians():
    d, m = 16, 500

    def law(a, b):
        A, norms = a @ b, a @ a + b @ b
        cubic = A**3 + 3 * A * (norms + d) + 6 * A
        return 1 + 3 * A / d + 3 * (A**2 + norms + d) / d**2 + cubic / d**3

    zero, one = np.zeros(d), np.ones(d)
    exact = law(zero, zero) + law(one, one) - 2 * law(zero, one)
    assert exact == pytest.approx(7.5859375, abs=1e-12)
    rng = np.random.default_rng(0)
    values = [
        polynomial_mmd(rng.standard_normal((m, d)), rng.standard_normal((m, d)) + 1)
        for _ in range(12)
    ]
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / np.sqrt(len(values))


def test_kid_of_one_distribution_is_about_zero_and_needs_enough_images():
    x, y = np.random.default_rng(1).standard_normal((2, 300, 8)).astype(np.float32)
    mean, std = kid(x, y, subsets=20, size=100)
    assert abs(mean) < 3 * std and kid(x, y, subsets=20, size=100) == (mean, std)
    assert kid(x, y, subsets=1, size=300)[0] == pytest.approx(polynomial_mmd(x, y), abs=1e-12)
    with pytest.raises(UserError, match="subsets of 301"):
        kid(x, y, size=301)


@pytest.mark.parametrize("rows", [7, 50, 1000])
def test_gaussian_mmd_in_blocks_is_the_double_sum(rows):
    x, y = np.random.default_rng(2).standard_normal((2, 60, 5))
    y = y[:41] + 0.3

    def mean(a, b):
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-squares / (2 * 2.0**2)).mean()

    want = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert gaussian_mmd(x, y, 2.0, rows=rows) == pytest.approx(want, abs=1e-6)


def test_cmmd_of_unit_vectors():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((200, 32)), rng.standard_normal((150, 32)) + 0.5
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]

    def mean(a, b):
        return np.exp(-(2 - 2 * a @ b.T) / 200).mean()

    want = 1000 * (mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(*unit))
    assert want > 0.1
    assert cmmd(x, y) == pytest.approx(want, abs=2e-5)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-6)
    assert cmmd(3 * x, y) == pytest.approx(cmmd(x, y), abs=1e-5)
