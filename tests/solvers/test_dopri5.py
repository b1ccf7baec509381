"""The adaptive solver does what SciPy's RK45 does, sample by sample, and says what it cost."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from genjax.core.errors import UserError
from genjax.parallel import MeshSpec, batch_sharding
from genjax.process.gaussian import EDM, VE, VP, RectifiedFlow, SubVP
from genjax.process.table import Table
from genjax.solvers import sample, solve
from genjax.solvers.dopri5 import ERROR, NODES, STAGES, integrate
from tests.solvers.solver_toys import bound, gaussian, keys, predictor

MEAN, STD = 0.3, 0.5
CASES = [(VP(), 1e-5), (VP(), 1e-3), (SubVP(), 1e-5), (VE(), 1e-5), (EDM(), 0.002)]


def slope(process):
    """Returns dx/dt of the probability flow of Gaussian data, for JAX and for SciPy."""
    denoise = gaussian(process, MEAN, STD)

    def in_graph(t, x):
        return process.velocity(x, t, denoise(x, t))

    def on_host(t, x):
        t = np.float64(t)
        variance = (process.alpha(t) * STD) ** 2 + process.sigma(t) ** 2
        score = -(x - process.alpha(t) * MEAN) / variance
        return process.drift(t) * x - 0.5 * process.diffusion2(t) * score

    return in_graph, on_host


def carried(process, x, start, stop):
    """Returns the exact flow map of Gaussian data."""
    start, stop = np.float64(start), np.float64(stop)
    v0, v1 = ((process.alpha(t) * STD) ** 2 + process.sigma(t) ** 2 for t in (start, stop))
    return process.alpha(stop) * MEAN + np.sqrt(v1 / v0) * (x - process.alpha(start) * MEAN)


def test_the_tableau_satisfies_the_order_conditions():
    c = np.array([0, *NODES[:-1]])
    fifth = np.array(STAGES[-1])
    fourth = np.append(fifth, 0) - np.array(ERROR)
    for row, node in zip(STAGES, NODES, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    for k in range(5):
        assert np.sum(fifth * c**k) == pytest.approx(1 / (k + 1), abs=1e-14)
    for k in range(4):
        assert np.sum(fourth * np.append(c, 1.0) ** k) == pytest.approx(1 / (k + 1), abs=1e-14)
    assert abs(np.sum(fourth * np.append(c, 1.0) ** 4) - 1 / 5) > 1e-4


@pytest.mark.parametrize(("process", "eps"), CASES)
def test_scipy_takes_the_same_steps(process, eps):
    in_graph, on_host = slope(process)
    x = np.array([[0.8, 0.1], [-0.2, 0.5], [1.3, -0.7]])
    each, whole = (
        jax.jit(lambda y, a, b, tol, n=norm: integrate(in_graph, y, a, b, tol, tol, norm=n))
        for norm in ("sample", "batch")
    )
    for tolerance, (start, stop, y0) in itertools.product(
        (1e-5, 1e-8),
        (
            (eps, process.t_max, x),
            (process.t_max, eps, carried(process, x, eps, process.t_max)),
        ),
    ):
        options = {"method": "RK45", "rtol": tolerance, "atol": tolerance}
        with jax.enable_x64(True):
            y, nfe, ok = each(y0, start, stop, tolerance)
            together, count, _ = whole(y0, start, stop, tolerance)
        assert np.asarray(ok).all()
        for i in range(3):
            want = solve_ivp(on_host, (start, stop), y0[i], **options)
            assert nfe[i] == want.nfev
            np.testing.assert_allclose(y[i], want.y[:, -1], rtol=1e-9, atol=1e-9)
        want = solve_ivp(on_host, (start, stop), y0.ravel(), **options)
        assert np.asarray(count).tolist() == [want.nfev] * 3
        np.testing.assert_allclose(np.ravel(together), want.y[:, -1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [VP(), VE()])
def test_float32_follows_within_its_rounding(process):
    """Decoding at the published tolerances: SciPy's steps within 2 %, its result within 1e-5."""
    in_graph, on_host = slope(process)
    z = carried(process, np.random.default_rng(0).normal(MEAN, STD, (3, 48)), 1e-3, 1.0)
    y, nfe, ok = integrate(in_graph, jnp.asarray(z, jnp.float32), 1.0, 1e-3, 1e-5, 1e-5)
    want = [solve_ivp(on_host, (1, 1e-3), v, method="RK45", rtol=1e-5, atol=1e-5) for v in z]
    np.testing.assert_allclose(nfe, [w.nfev for w in want], rtol=0.02)
    np.testing.assert_allclose(y, [w.y[:, -1] for w in want], rtol=0, atol=1e-5)
    assert np.asarray(ok).all() and y.dtype == jnp.float32


def test_a_sample_depends_on_itself_alone():
    in_graph, _ = slope(VP())
    x = jax.random.normal(jax.random.key(0), (5, 4, 3))
    alone = jax.jit(lambda x: integrate(in_graph, x, 1.0, 1e-3, 1e-5, 1e-5))
    y, nfe, _ = alone(x)
    assert len(set(np.asarray(nfe).tolist())) > 1  # some rest while others go on
    for i in range(5):
        one, count, _ = alone(x[i : i + 1])
        np.testing.assert_allclose(one[0], y[i], atol=2e-5)
        assert abs(int(count[0]) - int(nfe[i])) <= 6
    together = jax.jit(lambda x: integrate(in_graph, x, 1.0, 1e-3, 1e-5, 1e-5, norm="batch"))
    assert len(set(np.asarray(together(x)[1]).tolist())) == 1


def test_eight_devices_give_what_one_gives():
    in_graph, _ = slope(VP())
    x = jax.random.normal(jax.random.key(0), (8, 6))
    make = jax.jit(lambda x: integrate(in_graph, x, 1.0, 1e-3, 1e-5, 1e-5))
    mesh = MeshSpec().build()
    assert mesh.size == 8
    many = make(jax.device_put(x, batch_sharding(mesh)))
    for a, b in zip(make(x), many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_trees_times_of_each_sample_and_both_directions():
    """dy/dt = y and dl/dt = t in one solve, from times of each sample's own to others."""
    y0 = {"y": jnp.ones((3, 2, 2)), "l": jnp.zeros((3,))}
    start, stop = np.array([0, 1, 0], np.float32), np.array([1, -1, 0], np.float32)
    end, nfe, ok = integrate(
        lambda t, y: {"y": y["y"], "l": t}, y0, start, stop, 1e-6, 1e-6, max_steps=100
    )
    np.testing.assert_allclose(end["y"][:, 0, 1], np.exp(stop - start), rtol=1e-5)
    np.testing.assert_allclose(end["l"], (stop**2 - start**2) / 2, atol=1e-6)
    assert np.asarray(ok).all() and nfe[2] == 2


def test_what_is_not_reached_is_said():
    fast = jnp.array([[1.0], [300.0]])

    def f(t, y):
        return fast * jnp.cos(fast * t[:, None])

    y, nfe, ok = integrate(f, jnp.zeros((2, 1)), 0.0, 1.0, 1e-5, 1e-5, max_steps=30)
    assert np.asarray(ok).tolist() == [True, False] and nfe[1] == 2 + 6 * 30
    assert y[0, 0] == pytest.approx(np.sin(1), abs=1e-4)

    def broken(t, y):
        return jnp.where((t[:, None] > 0.5) & (fast > 1), jnp.nan, y)

    y, nfe, ok = integrate(broken, jnp.ones((2, 1)), 0.0, 1.0, 1e-5, 1e-5)
    assert np.asarray(ok).tolist() == [True, False] and np.isfinite(y).all()
    assert y[0, 0] == pytest.approx(np.e, abs=1e-3) and nfe[1] < 2000


@pytest.mark.parametrize("space", ["t", "lam"])
@pytest.mark.parametrize(
    ("process", "end"), [(VP(), 1e-3), (SubVP(), 1e-3), (VE(), 1e-5), (EDM(), 0.002), (Table(), 1)]
)
def test_the_solver_follows_the_flow(process, end, space):
    denoise, seen = gaussian(process, MEAN, STD), []

    def counted(x, t):
        jax.debug.callback(lambda t: seen.append(t), t[0])
        return denoise(x, t)

    solver = bound("rk45", process, space=space, rtol=1e-6, atol=1e-6)
    rows = solver.rows(np.linspace(process.t_max, end, 20))
    assert {len(v) for v in rows.values()} == {1}
    x = np.array([[0.6, -0.1]])
    z = carried(process, x, end, process.t_max)
    with jax.enable_x64(True):
        state = jax.jit(lambda r, z: solve(solver, predictor(counted), r, z, keys(1)))(
            rows, jnp.asarray(z)
        )
    jax.effects_barrier()
    np.testing.assert_allclose(solver.output(state), x, atol=1e-4)
    measured = solver.measures(state)
    assert measured["nfe"].tolist() == [len(seen)] and measured["ok"].all()
    assert len(seen) <= solver.nfe(50)


def test_the_end_without_noise():
    """A flow ends at t = 0 by its estimate of the data: of N(m, s^2) that is m + O(t) there."""
    process = RectifiedFlow()
    solver = bound("rk45", process)
    x = jnp.array([[0.7], [-1.0]])
    assert solver.rows(np.array([1.0, 0]))["t_stop"] == pytest.approx(0.002 / 1.002)
    for other, stop in ((EDM(), 0.002), (Table(), 1.0)):
        rows = bound("rk45", other).rows(np.array([other.t_max, 0.0]))
        assert rows["t_stop"] == pytest.approx(stop) and rows["last"].all()
    out = sample(
        solver, predictor(gaussian(process, MEAN, STD)), solver.rows(np.array([1.0, 0])), x, keys(2)
    )
    np.testing.assert_allclose(out, MEAN + STD * np.asarray(x), atol=5e-4)


def test_final_denoising():
    """The mean is Tweedie's; legacy is Score SDE's noiseless step, in the sheet's own formulas."""
    x, m, s = np.array([[0.4], [-0.9]]), MEAN, STD

    def last_step(process, t, denoise):
        solver = bound("rk45", process, denoise=denoise)
        row = jax.tree.map(lambda v: v[0], solver.rows(np.array([process.t_max, t])))
        return row["a"] * x + row["c"] * gaussian(process, m, s)(x, np.float64(t))

    def score(process, t):
        alpha, sigma = process.alpha(np.float64(t)), process.sigma(np.float64(t))
        return -(x - alpha * m) / ((alpha * s) ** 2 + sigma**2)

    vp, subvp, ve = VP(), SubVP(), VE()
    want = (2 - np.sqrt(1 - 1e-4)) * x + 1e-4 * score(vp, 1e-3)
    np.testing.assert_allclose(last_step(vp, 1e-3, "legacy"), want, rtol=1e-9)
    np.testing.assert_allclose(
        last_step(ve, 1e-5, "legacy"), x + 0.01**2 * score(ve, 1e-5), rtol=1e-9
    )
    want = x - subvp.drift(1e-3) * x / 1000 + subvp.diffusion2(1e-3) / 1000 * score(subvp, 1e-3)
    np.testing.assert_allclose(last_step(subvp, 1e-3, "legacy"), want, rtol=1e-9)
    alpha, variance = vp.alpha(1e-3), vp.sigma(1e-3) ** 2
    want = (x + variance * score(vp, 1e-3)) / alpha
    np.testing.assert_allclose(last_step(vp, 1e-3, "mean") / alpha, want, rtol=1e-9)
    np.testing.assert_allclose(last_step(vp, 1e-3, "none"), x, rtol=0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"space": "x"}, "space must be one of t, lam"),
        ({"norm": "all"}, "norm must be one of"),
        ({"denoise": "yes"}, "denoise must be one of"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_wrong_options_are_named(fields, words):
    with pytest.raises(UserError, match=words):
        bound("rk45", VP(), **fields)


def test_what_cannot_be_solved_is_said():
    with pytest.raises(UserError, match="no finite coefficient"):
        bound("rk45", RectifiedFlow(), space="lam").rows(np.array([1.0, 0.1]))
    with pytest.raises(UserError, match='"legacy" is of Score SDE'):
        bound("rk45", EDM(), denoise="legacy").rows(np.array([80, 0.002]))
    solver = bound("rk45", VP()).imposing(lambda x, mean, t, k: (x, mean))
    rows = solver.rows(np.array([1.0, 0.1]))
    with pytest.raises(UserError, match="chooses its own steps"):
        sample(solver, predictor(gaussian(VP(), 0, 1)), rows, jnp.ones((1, 1)), keys(1))
    with pytest.raises(ValueError, match="norm must be"):
        integrate(lambda t, y: y, jnp.ones((1, 1)), 0.0, 1.0, 1e-3, 1e-3, norm="both")
