import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys as keys_lib
from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VE, VP, SubVP
from genjax.process.table import Table
from genjax.solvers import GRIDS, SOLVERS, noise, sample
from genjax.solvers.correctors import CORRECTORS
from tests.solvers.solver_toys import bound, gaussian, keys, predictor


def corrector_only(process, corrector, steps=1, **fields):
    return bound(
        "pc",
        process,
        predictor={"name": "none"},
        corrector=corrector,
        corrector_steps=steps,
        **fields,
    )


def z_of(k, step, update, shape):
    """The noise that the solver draws for images with keys `k`."""
    return np.asarray(
        keys_lib.normal(keys_lib.fold_each(keys_lib.fold_each(k, step), update), shape)
    )


@pytest.mark.parametrize("norms", ["sample", "batch"])
@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize("denoise", [True, False])
def test_a_langevin_step_is_the_formula(norms, expected, denoise):
    process, t, r = VP(), 0.4, 0.3
    fields = {"name": "langevin", "snr": r, "norms": norms, "expected": expected}
    solver = corrector_only(process, fields, denoise=denoise)
    k, shape = keys(3), (2, 2, 1)
    x = noise(k, shape) * jnp.array([0.5, 1.0, 3.0])[:, None, None, None]
    rows = solver.rows(np.array([t, 0.3]))
    toy = gaussian(process, 0.3, 0.5)
    found = np.asarray(sample(solver, predictor(toy), rows, x, k))

    z, x = z_of(k, 0, 0, shape).astype(float), np.asarray(x, float)
    g = np.asarray(process.score(x, t, toy(x, t)))
    top = np.full(3, 2.0) if expected else np.sqrt((z**2).sum((1, 2, 3)))
    bottom = np.sqrt((g**2).sum((1, 2, 3)))
    if norms == "batch":
        top, bottom = top.mean(), bottom.mean()
    alpha = (process.alpha(t) / process.alpha(0.3)) ** 2
    e = np.broadcast_to(2 * alpha * (r * top / bottom) ** 2, 3)[:, None, None, None]
    want = x + e * g + (0 if denoise else np.sqrt(2 * e) * z)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("r", [0.16, 0.4])
def test_langevin_is_stationary_at_one_plus_r_squared(r):
    """On N(0, s^2 I_D), D large; s^2 here is the marginal's variance at t."""
    process, t, std, shape = EDM(), 0.3, 0.4, (64, 64, 1)
    variance = std**2 + t**2
    solver = corrector_only(process, {"name": "langevin", "snr": r}, denoise=False)
    found = _stationary(solver, t, gaussian(process, 0.0, std), shape, steps=int(2.5 / r**2))
    assert found == pytest.approx(variance * (1 + r**2), rel=1e-2)


@pytest.mark.parametrize("r", [0.16, 0.4])
def test_ald_is_stationary_at_one_over_one_minus_r_squared(r):
    """Where the marginal is the noise alone, its std sigma(t)."""
    process, t, shape = EDM(), 0.3, (64, 64, 1)
    solver = corrector_only(process, {"name": "ald", "snr": r}, denoise=False)
    found = _stationary(solver, t, gaussian(process, 0.0, 1e-6), shape, steps=int(2.5 / r**2))
    assert found == pytest.approx(t**2 / (1 - r**2), rel=1e-2)


def _stationary(solver, t, denoise, shape, steps):
    """Returns the mean square after `steps` corrections at t; its standard error is 0.3 %."""
    rows, k = solver.rows(np.full(steps + 1, t)), keys(64)
    out = jax.jit(lambda r, k: sample(solver, predictor(denoise), r, noise(k, shape, t), k))(
        rows, k
    )
    return float(np.mean(np.asarray(out, float) ** 2))


def test_alpha_is_the_share_of_the_step():
    """1 for VE, 1 - beta_i of the published table for VP, 1 - beta(t)/N for sub-VP (ours)."""
    n, ald = 1000, {"name": "ald", "snr": 1.0}

    def alphas(process, how, name="score_sde"):
        grid = GRIDS.build({"name": name}).times(process, n)
        rows = corrector_only(process, ald, discretisation=how).rows(grid)
        return grid[:-1], rows["size"] / 2

    for how in ("legacy", "consistent"):
        np.testing.assert_array_equal(alphas(VE(), how)[1], 1)
    beta = np.linspace(0.1 / n, 20 / n, n)[::-1]
    np.testing.assert_allclose(alphas(VP(), "legacy")[1], 1 - beta, rtol=1e-12)
    np.testing.assert_allclose(alphas(VP(), "consistent")[1], 1 - beta, atol=3e-4)
    t, found = alphas(SubVP(), "legacy")
    np.testing.assert_allclose(found, 1 - SubVP().beta(t) / n, rtol=1e-12)
    _, found = alphas(Table(), "consistent")
    np.testing.assert_allclose(found, 1 - Table().beta_values()[::-1], rtol=1e-10)


def test_each_update_draws_its_own_noise():
    """Three ald steps at one time, replayed by hand with the keys of step and update."""
    process, t, r, shape = VE(), 0.5, 0.2, (2, 3, 1)
    solver = corrector_only(process, {"name": "ald", "snr": r}, steps=3, denoise=False)
    k, toy = keys(2), gaussian(VE(), 0.1, 0.2)
    x = noise(k, shape, 2.0)
    found = sample(solver, predictor(toy), solver.rows(np.array([t, t, 0.4])), x, k)
    x = np.asarray(x, float)
    e = 2 * (r * process.sigma(t)) ** 2
    for step in range(2):
        for update in range(3):
            g = process.score(x, t, np.asarray(toy(x, t)))
            x = x + e * g + np.sqrt(2 * e) * z_of(k, step, update, shape)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def test_fields_out_of_range_are_named():
    for fields, words in (
        ({"name": "langevin", "snr": 0.0}, "snr must be positive"),
        ({"name": "ald", "snr": -1.0}, "snr must be positive"),
        ({"name": "langevin", "norms": "device"}, 'norms must be "sample" or "batch"'),
    ):
        with pytest.raises(UserError, match=words):
            CORRECTORS.build(fields, "corrector")
    for fields, words in (
        ({"corrector_steps": 0}, "corrector_steps must be at least 1"),
        ({"discretisation": "exact"}, "discretisation must be one of"),
        ({"predictor": {"name": "none"}, "corrector": {"name": "none"}}, "cannot both be"),
    ):
        with pytest.raises(UserError, match=words):
            SOLVERS.build({"name": "pc", **fields}, "solver")
