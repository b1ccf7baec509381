import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.objectives.weighting import WEIGHTINGS, conversion, row
from genjax.process import EDM, PRECONDS, VP, Cosine, RectifiedFlow, SubVP, Table

PROCESSES = [VP(), SubVP(), EDM(sigma_max=20), RectifiedFlow(), Cosine(), Table()]
ROWS = [k for k in PRECONDS.entries if k != "consistency"]


def precond(kind, **fields):
    return PRECONDS.build({"name": kind} | fields)


def weight(kind, process, own, t, target="F", **fields):
    weighting = WEIGHTINGS.build({"name": kind} | fields)
    return np.asarray(weighting.weight(process, own, row(target, own), t))


def inside(process):
    span = process.t_max - process.t_min
    return jnp.asarray(process.t_min + span * np.linspace(0.05, 0.95, 11), jnp.float32)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", ROWS)
def test_an_error_converts_by_the_ratio_of_c_out(kind, process):
    # the same wrong estimate of the data, measured in both parametrisations
    own, t = precond(kind), inside(process)
    x0, eps, wrong = np.random.default_rng(0).normal(size=(3, len(t)))
    host = np.asarray(t, np.float64)
    x = process.perturb(x0, eps, host)
    off = {}
    for k in ROWS:
        r = precond(k)
        f = (wrong - r.c_skip(process, host) * x) / r.c_out(process, host)
        off[k] = f - r.target(process, host, x0, eps)
    for k in ROWS:
        got = np.asarray(conversion(process, own, row(k, own), t))
        np.testing.assert_allclose(got * off[kind] ** 2, off[k] ** 2, rtol=2e-4)
    np.testing.assert_allclose(
        off[kind] ** 2, (wrong - x0) ** 2 / own.c_out(process, host) ** 2, rtol=1e-8
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_weights_are_their_published_formulas(process):
    t = inside(process)
    snr = 1 / process.lam(np.asarray(t, np.float64)) ** 2
    close = {"rtol": 3e-4}
    x0, eps = precond("x0"), precond("eps")
    np.testing.assert_allclose(weight("min_snr", process, x0, t), np.minimum(snr, 5), **close)
    np.testing.assert_allclose(weight("min_snr", process, eps, t), np.minimum(1, 5 / snr), **close)
    got = weight("min_snr", process, x0, t, gamma=0.3)
    np.testing.assert_allclose(got, np.minimum(snr, 0.3), **close)
    np.testing.assert_allclose(weight("snr", process, eps, t), 1, **close)
    np.testing.assert_allclose(weight("uniform", process, x0, t, "eps"), snr, **close)
    got = weight("truncated_snr", process, x0, t)
    np.testing.assert_allclose(got, np.maximum(snr, 1), **close)
    g2 = process.diffusion2(np.asarray(t, np.float64))
    np.testing.assert_allclose(weight("likelihood", process, precond("score"), t), g2, **close)
    lam2 = 1 / snr
    for sd in (0.5, 1.3):
        edm = precond("edm", sigma_data=sd)
        np.testing.assert_allclose(weight("edm", process, edm, t, sigma_data=sd), 1, **close)
        got = weight("edm", process, x0, t, sigma_data=sd)
        np.testing.assert_allclose(got, (lam2 + sd**2) / (lam2 * sd**2), **close)


def test_min_snr_of_v_prediction():
    # Hang et al.: min(snr, gamma)/(snr + 1) for v prediction under VP
    process, t = VP(), inside(VP())
    snr = 1 / process.lam(np.asarray(t, np.float64)) ** 2
    got = weight("min_snr", process, precond("v"), t)
    np.testing.assert_allclose(got, np.minimum(snr, 5) / (snr + 1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["velocity", "x0", "v", "edm"])
@pytest.mark.parametrize("weighting", WEIGHTINGS.entries)
def test_weights_are_finite_at_the_ends(kind, weighting):
    own, t = precond(kind), jnp.array([0.0, 0.999999])
    assert np.all(np.isfinite(weight(weighting, RectifiedFlow(), own, t)))
    for target in ("F", "eps", "x0", "v", "velocity", "score"):
        got = weight("uniform", RectifiedFlow(), own, jnp.array([0.0, 1.0]), target)
        assert np.all(np.isfinite(got))


def test_the_networks_own_row_weighs_one_everywhere():
    own = precond("eps")
    t = jnp.array([0.0, 0.5, 1.0])  # c_out is 0, 1 and infinite there
    for target in ("F", "eps"):
        np.testing.assert_array_equal(weight("uniform", RectifiedFlow(), own, t, target), 1)


def test_wrong_fields():
    for fields in ({"name": "min_snr", "gamma": 0}, {"name": "edm", "sigma_data": -1}):
        with pytest.raises(UserError, match="must be positive"):
            WEIGHTINGS.build(fields)
