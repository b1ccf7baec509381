import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.training.ema import EMAS, update
from genjax.training.posthoc import (
    SIGMA_REL_LIMIT,
    Profile,
    gamma_of,
    inner,
    profile,
    raw_weights,
    reconstruct,
    sigma_rel_of,
    weights,
)


@pytest.mark.parametrize(
    ("width", "gamma"),
    [(0.05, 16.97219860), (0.10, 6.93720394), (0.13, 4.60359678), (0.20, 1.82621378)],
)
def test_exponents_of_the_sheet(width, gamma):
    assert gamma_of(width) == pytest.approx(gamma, abs=5e-9)
    assert sigma_rel_of(gamma_of(width)) == pytest.approx(width, rel=1e-12)


def test_limits_of_the_width():
    assert gamma_of(SIGMA_REL_LIMIT - 1e-9) == pytest.approx(0, abs=1e-6)
    for width in (0.0, -0.1, SIGMA_REL_LIMIT, 1.0):
        with pytest.raises(ValueError, match="width"):
            gamma_of(width)


def test_inner_products_of_the_sheet_and_of_numerical_integration():
    pairs = [((1, 0.05), (1, 0.10)), ((0.5, 0.05), (1, 0.10)), ((1, 0.05), (1, 0.05))]
    want = [5.72671325, 0.0467303427, 9.24325352]
    for (a, b), value in zip(pairs, want):
        got = inner([profile(a[1], a[0])], [profile(b[1], b[0])])
        assert got.shape == (1, 1) and got[0, 0] == pytest.approx(value, rel=1e-8)
        t = (np.arange(400_000) + 0.5) / 400_000
        p = [
            np.where(t < x[0], (gamma_of(x[1]) + 1) / x[0] * (t / x[0]) ** gamma_of(x[1]), 0)
            for x in (a, b)
        ]
        assert np.mean(p[0] * p[1]) == pytest.approx(value, rel=1e-4)


def test_weights_of_the_sheet():
    snapshots = [profile(std, t) for t in range(1, 9) for std in (0.05, 0.10)]
    target = profile(0.075, 8)
    raw = raw_weights(snapshots, target)
    assert raw.sum() == pytest.approx(1.00114863, abs=1e-8)
    found = weights(snapshots, target)
    np.testing.assert_allclose(found[-2:], [0.2917896095, 0.7850913091], atol=1e-9)
    np.testing.assert_allclose(found[-4:-2], [0.0402613900, -0.1018319682], atol=1e-9)
    assert found.sum() == pytest.approx(1.0, abs=1e-14)
    np.testing.assert_allclose(weights(snapshots, snapshots[5]), np.eye(16)[5], atol=1e-9)


def test_synthesis_matches_the_average_trained_at_that_width():
    """A random walk of parameters, averaged while it runs and reconstructed afterwards."""
    batch, steps, every = 64, 1024, 128
    walk = np.cumsum(np.random.default_rng(0).normal(size=(steps, 16)), axis=0) / 8
    widths = (0.05, 0.10, 0.065, 0.085)
    laws = [EMAS.build({"name": "power", "sigma_rel": w}) for w in widths]

    @jax.jit
    def step(emas, i, theta):
        before = i * batch
        return [update(e, theta, law(before, before + batch)) for e, law in zip(emas, laws)]

    emas, snapshots = [jnp.zeros(16) for _ in laws], []
    for i in range(steps):
        emas = step(emas, jnp.uint32(i), jnp.float32(walk[i]))
        if (i + 1) % every == 0:
            images = (i + 1) * batch
            snapshots += [(law.profile(images), {"w": e}) for law, e in zip(laws[:2], emas)]
    profiles = [p for p, _ in snapshots]
    between = np.linalg.norm(emas[0] - emas[1])
    for law, want in zip(laws[2:], emas[2:]):
        found = reconstruct(iter(snapshots), profiles, law.profile(steps * batch))["w"]
        assert found.dtype == np.float32
        assert np.linalg.norm(found - want) < 0.02 * between
        assert np.linalg.norm(emas[0] - want) > 0.2 * between  # neither stored one would do


def test_profiles_survive_json_metadata():
    one = profile(0.1, 8_388_608)
    assert Profile.read(one.metadata()) == one


@pytest.mark.parametrize(
    ("snapshots", "target", "words"),
    [
        ([], profile(0.1, 1), "no EMA snapshots"),
        ([profile(0.1, 1)] * 2, profile(0.1, 1), "twice"),
        ([profile(0.1, 1)], profile(0.1, 2), "cannot be reconstructed"),
    ],
)
def test_impossible_requests_are_refused(snapshots, target, words):
    with pytest.raises(UserError, match=words):
        weights(snapshots, target)


def test_a_snapshot_that_was_not_read_is_refused():
    profiles = [profile(0.05, 1), profile(0.1, 1)]
    with pytest.raises(UserError, match="not read"):
        reconstruct([(profiles[0], {"w": np.ones(2)})], profiles, profile(0.07, 1))
