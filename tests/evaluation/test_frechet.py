"""Closed forms of the Frechet distance, its law of bias, and a reference implementation's value."""

from pathlib import Path

import numpy as np
import pytest

from genjax.evaluation.frechet import expected_bias, frechet
from genjax.evaluation.statistics import Statistics, of_features


def gaussian(mu, sigma) -> Statistics:
    return Statistics(np.asarray(mu, np.float64), np.asarray(sigma, np.float64), None)


def test_diagonal_gaussians_by_hand():
    a = gaussian([0, 0, 0], np.diag([1.0, 4.0, 9.0]))
    b = gaussian([1, 1, 1], np.diag([4.0, 1.0, 16.0]))
    assert frechet(a, b) == pytest.approx(6.0, abs=1e-12)
    assert frechet(b, a) == pytest.approx(6.0, abs=1e-12)


def test_commuting_covariances_in_a_rotated_basis():
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    u, v = rng.uniform(0.1, 3, 12), rng.uniform(0.1, 3, 12)
    shift = rng.standard_normal(12)
    a, b = gaussian(np.zeros(12), q @ np.diag(u) @ q.T), gaussian(shift, q @ np.diag(v) @ q.T)
    expected = np.sum((np.sqrt(u) - np.sqrt(v)) ** 2) + shift @ shift
    assert frechet(a, b) == pytest.approx(expected, rel=1e-12)


def test_shift_alone_is_the_squared_length_of_the_shift():
    rng = np.random.default_rng(1)
    m = rng.standard_normal((20, 20))
    a, b = gaussian(np.zeros(20), m @ m.T), gaussian(np.full(20, 0.3), m @ m.T)
    assert frechet(a, b) == pytest.approx(20 * 0.09, rel=1e-10)


@pytest.mark.parametrize("rank", [2, 7, 30])
def test_distance_to_itself_is_zero_at_any_rank(rank):
    m = np.random.default_rng(rank).standard_normal((30, rank))
    a = gaussian(np.ones(30), m @ m.T)
    assert frechet(a, a) <= 1e-12 * np.trace(a.sigma)


def test_null_directions_contribute_nothing():
    # Two planes that share one axis, in 200 dimensions: only the shared axis has a cross term.
    q, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((200, 200)))
    a = gaussian(np.zeros(200), q[:, [0, 1]] @ np.diag([4.0, 1.0]) @ q[:, [0, 1]].T)
    b = gaussian(np.zeros(200), q[:, [0, 2]] @ np.diag([9.0, 1.0]) @ q[:, [0, 2]].T)
    assert frechet(a, b) == pytest.approx(15.0 - 2 * 6.0, abs=1e-11)


def test_features_and_covariances_agree_below_full_rank():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((40, 64)) * 2, rng.standard_normal((30, 64)) + 0.1
    a, b = of_features(x), of_features(y)
    assert a.features is not None and b.features is not None
    by_sigma = frechet(gaussian(a.mu, a.sigma), gaussian(b.mu, b.sigma))
    assert frechet(a, b) == pytest.approx(by_sigma, rel=1e-10)
    assert frechet(a, gaussian(b.mu, b.sigma)) == pytest.approx(by_sigma, rel=1e-10)


def test_general_case_against_the_eigenvalues_of_the_product():
    rng = np.random.default_rng(4)
    m, n = rng.standard_normal((2, 16, 16))
    s, t = m @ m.T, n @ n.T
    root = np.sum(np.sqrt(np.linalg.eigvals(s @ t).real))
    expected = np.trace(s) + np.trace(t) - 2 * root
    got = frechet(gaussian(np.zeros(16), s), gaussian(np.zeros(16), t))
    assert got == pytest.approx(expected, rel=1e-9)


def test_order_of_the_samples_does_not_matter():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((2, 500, 8))
    a, b = of_features(x), of_features(y)
    shuffled = of_features(x[rng.permutation(500)])
    assert frechet(shuffled, b) == pytest.approx(frechet(a, b), rel=1e-5)


def test_bias_law_of_the_identity_covariance():
    for d, n in ((3, 10), (64, 400)):
        assert expected_bias(np.eye(d), n) == pytest.approx((d + d * (d + 1) / 4) / n, rel=1e-12)
    law = expected_bias(np.eye(4), 10, 40)
    assert law == pytest.approx(expected_bias(np.eye(4), 8), rel=1e-12)  # 1/10 + 1/40 = 1/8


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_bias_law_against_monte_carlo(spread):
    d, n, runs = 24, 1600, 60
    scales = np.linspace(1.0, spread, d)  # of the standard deviations: the law of any covariance
    exact = gaussian(np.zeros(d), np.diag(scales**2))
    rng = np.random.default_rng(6)
    values = []
    for _ in range(runs):
        x = rng.standard_normal((n, d)) * scales
        values.append(frechet(gaussian(x.mean(0), np.cov(x.T)), exact))
    error = np.std(values) / np.sqrt(runs)
    law = expected_bias(exact.sigma, n)
    # The law is first order in 1/n: beyond three standard errors, 2 % of it are allowed.
    assert abs(np.mean(values) - law) < 3 * error + 0.02 * law
    assert error < 0.02 * law


def test_value_of_a_reference_implementation():
    # Six images in 2048 dimensions. The package takes scipy's square root of a singular product,
    # whose own error is 5e-7 here; the nuclear norm of a 6 x 6 matrix is exact.
    path = Path(__file__).parents[1] / "goldens" / "frechet.npz"
    data = np.load(path, allow_pickle=False)
    got = frechet(of_features(data["pool3"]), of_features(data["other_pool3"]))
    assert got == pytest.approx(float(data["frechet"]), abs=1e-6)
