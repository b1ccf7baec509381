"""Every column of EDM's table 1, and Score SDE's conventions, as choices of existing pieces."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.objectives.weighting import WEIGHTINGS, row
from genjax.process import EDM, PRECONDS, VE, VP, SubVP, Table

SIGMA = np.array([0.025, 0.1, 0.5, 1.0, 7.0, 80.0])
ROOT = np.sqrt(1 + SIGMA**2)
VP_TIME = (np.sqrt(0.1**2 + 2 * 19.9 * np.log1p(SIGMA**2)) - 0.1) / 19.9
SD = 0.5
Q = np.sqrt(SIGMA**2 + SD**2)


def levels():
    """u_0 .. u_M of edm.md 3.2, by the paper's recursion."""
    m, c1, c2 = 1000, 0.001, 0.008
    abar = np.sin(np.pi * np.arange(m + 1) / (2 * m * (1 + c2))) ** 2
    u = np.zeros(m + 1)
    for j in range(m, 0, -1):
        u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(abar[j - 1] / abar[j], c1) - 1)
    return u


NEAREST = np.array([999 - np.argmin(np.abs(levels()[:-1] - s)) for s in SIGMA])
# Column -> process, precond, weighting; c_skip, c_out, c_in, c_noise, weight of the paper.
COLUMNS = {
    "VP": (
        VP(),
        {"name": "eps", "time_scale": 999.0},
        {"name": "snr"},
        (1, -SIGMA, 1 / ROOT, 999 * VP_TIME, SIGMA**-2),
    ),
    "VE": (
        VE(0.02, 100.0),
        {"name": "eps", "negative": True, "time": "log_half_sigma"},
        {"name": "snr"},
        (1, SIGMA, 1, np.log(SIGMA / 2), SIGMA**-2),
    ),
    "iDDPM": (
        Table("cosine"),
        {"name": "eps", "time": "nearest_index"},
        {"name": "snr"},
        (1, -SIGMA, 1 / ROOT, NEAREST, SIGMA**-2),
    ),
    "EDM": (
        EDM(),
        {"name": "edm"},
        {"name": "edm"},
        (SD**2 / Q**2, SIGMA * SD / Q, 1 / Q, np.log(SIGMA) / 4, (Q / (SIGMA * SD)) ** 2),
    ),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_columns_of_table_1(column):
    """The paper's coefficients act on x/alpha: theirs are alpha c_skip and alpha c_in."""
    process, precond, weighting, want = COLUMNS[column]
    precond, t = PRECONDS.build(precond), process.t_of_lam(SIGMA)
    alpha = process.alpha(t)
    got = (
        alpha * precond.c_skip(process, t),
        precond.c_out(process, t),
        alpha * precond.c_in(process, t),
    )
    for g, w in zip(got, want[:3], strict=True):
        np.testing.assert_allclose(g, np.broadcast_to(w, SIGMA.shape), rtol=1e-12)
    np.testing.assert_allclose(precond.c_noise(process, t), want[3], rtol=2e-6, atol=1e-6)
    weight = WEIGHTINGS.build(weighting).weight(process, precond, row("F", precond), jnp.asarray(t))
    np.testing.assert_allclose(weight / got[1] ** 2, want[4], rtol=2e-5)


def test_printed_numbers_of_vp():
    precond, process = PRECONDS.build({"name": "eps", "time_scale": 999.0}), VP()
    told = precond.c_noise(process, process.t_of_lam(np.array([80.0, 0.002])))
    np.testing.assert_allclose(told, [932.57763, 0.03980213], rtol=3e-7)
    got = process.lam(np.array([1e-5, 1e-3, 1.0]))
    np.testing.assert_allclose(got, [1.0004976e-3, 1.0485993e-2, 152.16697], rtol=4e-8)


def test_iddpm_levels_are_the_cosine_table():
    printed = [20291.17, 641.66, 320.83, 213.886, 160.414, 128.33, 106.941, 91.6625, 80.2037]
    printed.append(71.2912)
    lam = Table("cosine").lam(np.arange(1000, 0, -1.0))
    np.testing.assert_allclose(lam[:10], printed, rtol=7e-6)
    assert lam[999] == pytest.approx(0.006425413, rel=1e-7)
    np.testing.assert_allclose(lam, levels()[:-1], rtol=1e-9)


def test_nearest_entry_is_by_noise_level():
    table, u = Table("cosine"), levels()
    sigma = np.exp(np.linspace(np.log(0.007), np.log(9000), 301))
    want = 1000 - np.array([np.argmin(np.abs(u[:-1] - s)) for s in sigma])
    np.testing.assert_array_equal(table.nearest(table.t_of_lam(sigma)), want)
    single = table.nearest(jnp.asarray(table.t_of_lam(sigma), jnp.float32))
    assert np.mean(np.asarray(single) == want) > 0.99  # float32 may fall on the other side
    np.testing.assert_array_equal(table.nearest(np.array([0.0, 0.3, 1.0, 1000.0])), [1, 1, 1, 1000])
    with pytest.raises(UserError, match='"nearest_index" counts the entries'):
        PRECONDS.build({"name": "eps", "time": "nearest_index"}).check(VP())


def test_score_sde_heads_and_labels():
    """What Score SDE's networks are told, and that the head is -z for VE and z for VP."""
    t = np.array([1e-5, 0.1, 0.5, 1.0])
    ve, vp = VE(), VP()
    head = PRECONDS.build({"name": "eps", "negative": True, "time": "log_sigma"})
    sigma = 0.01 * 5000**t
    np.testing.assert_allclose(head.c_noise(ve, t), np.log(sigma), rtol=1e-6)
    x0, eps = np.random.default_rng(0).normal(size=(2, 4, 3))
    np.testing.assert_array_equal(head.target(ve, t, x0, eps), -eps)
    np.testing.assert_allclose(head.c_out(ve, t), sigma, rtol=1e-12)  # D = x + sigma F
    for process in (vp, SubVP()):
        head = PRECONDS.build({"name": "eps", "time_scale": 999.0})
        np.testing.assert_allclose(head.c_noise(process, t), 999 * t, rtol=1e-6)
        np.testing.assert_array_equal(head.target(process, t, x0, eps), eps)


def test_discrete_ve_labels_run_from_large_to_small_noise():
    fields = {"name": "eps", "negative": True, "time": "reverse", "time_scale": 999.0}
    i = np.array([0, 1, 500, 998, 999])
    exact = PRECONDS.build(fields | {"time_round": "nearest"}).c_noise(VE(), i / 999)
    np.testing.assert_array_equal(exact, 999 - i)
    np.testing.assert_allclose(PRECONDS.build(fields).c_noise(VE(), i / 999), 999 - i, atol=1e-4)
    # label 0 is the largest of the descending sigmas
    ratio = VE().sigma(1.0) / VE().sigma(998 / 999)
    assert ratio == pytest.approx(1.0085621664, abs=5e-11)


def test_labels_of_a_finer_table():
    """Score SDE's P2000: label i/2 as it is, or rounded down."""
    table, t = Table(n=2000), np.array([1.0, 2.0, 3.0, 2000.0])
    half = {"name": "eps", "time_scale": 0.5}
    np.testing.assert_array_equal(PRECONDS.build(half).c_noise(table, t), [0, 0.5, 1, 999.5])
    floor = PRECONDS.build(half | {"time_round": "floor"}).c_noise(table, t)
    np.testing.assert_array_equal(floor, [0, 0, 1, 999])
    with pytest.raises(UserError, match="time_round: 'up' is unknown"):
        PRECONDS.build(half | {"time_round": "up"})
