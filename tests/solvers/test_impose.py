"""Constrained sampling on Gaussian data: what is known is exact, the rest has its marginal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.arrays import bcast
from genjax.core.errors import UserError
from genjax.process import PROCESSES
from genjax.solvers import SOLVERS, noise, operators, sample
from genjax.solvers.impose import Imposed, Known, known_image
from tests.solvers import solver_toys as toys

SHAPE = (1, 2, 1)
FIRST = operators.inpaint(np.array([[1, 0]]), SHAPE)
VE = {"name": "ve", "sigma_min": 0.01, "sigma_max": 20.0}
# Step sizes that do not divide by an image's own score, which may be 0 in one dimension.
PC = {"name": "pc", "corrector": {"name": "ald", "snr": 0.1}}
LAW = (np.array([0.7, 0.2]).reshape(SHAPE), np.array([0.3, 0.5]).reshape(SHAPE))


def known(process, y, *, operator=FIRST, legacy=False):
    return Known(process, operator, jnp.asarray(y, jnp.float32), legacy)


def draw(process, solver, denoise, y, n=4000, steps=60, first=None, **options):
    """Returns [n, *SHAPE] of the solver that knows y [m], on a grid geometric in noise."""
    lam = np.geomspace(process.lam(process.t_max), 0.01, steps)
    grid = np.append(process.t_of_lam(lam), 0.0)
    built = SOLVERS.build(solver).bind(process)
    imposed = Imposed(built, known(process, np.tile(y, (n, 1)), **options), grid[0])
    rows = built.rows(grid)

    def run(rows, keys):
        x = noise(keys, SHAPE, process.start_std(grid[0]))
        return sample(imposed, toys.predictor(denoise), rows, x, keys)

    return np.asarray(jax.jit(run)(rows, toys.keys(n)))[..., 0][:, 0]


@pytest.mark.parametrize(
    ("process", "solver"),
    [
        (VE, PC),
        ({"name": "vp"}, PC),
        (VE, {"name": "heun", "space": "lam"}),
        ({"name": "vp"}, {"name": "ddim"}),
        ({"name": "vp"}, {"name": "edm", "S_churn": 10.0}),
        ({"name": "subvp"}, {"name": "euler", "space": "lam"}),
    ],
)
def test_independent_coordinates_get_their_marginal(process, solver):
    process = PROCESSES.build(process)
    out = draw(process, solver, toys.gaussian(process, *LAW), [1.25])
    assert np.array_equal(out[:, 0], np.full(len(out), np.float32(1.25)))
    # 4 standard errors, and the solver's own error of 60 steps
    assert abs(out[:, 1].mean() - 0.2) < 4 * 0.5 / np.sqrt(len(out)) + 0.01
    assert abs(out[:, 1].std() / 0.5 - 1) < 0.08


def correlated(process, rho):
    """Returns D of two unit Gaussians with correlation `rho`."""
    cov = np.array([[1, rho], [rho, 1]])

    def denoise(x, t):
        alpha, sigma = (bcast(f(t), x) for f in (process.alpha, process.sigma))
        value, basis = np.linalg.eigh(cov)
        turned = x[..., 0] @ jnp.asarray(basis, jnp.float32)
        a, s = jnp.reshape(alpha, (-1, 1, 1)), jnp.reshape(sigma, (-1, 1, 1))
        gain = a * value / (a**2 * value + s**2)
        return ((gain * turned) @ jnp.asarray(basis.T, jnp.float32))[..., None]

    return denoise


def test_correlated_coordinates_are_biased_as_documented():
    """A regression, no truth: replacement sees fresh noise that the unknown half has not seen.

    Given y = 1 and correlation 0.8 the truth is N(0.8, 0.36). Correctors help; more steps do not
    make an ODE unbiased.
    """
    process = PROCESSES.build(VE)
    denoise = correlated(process, 0.8)
    for solver, mean, variance in (
        (PC, 0.50, 0.556),
        ({"name": "heun", "space": "lam"}, 0.336, 0.60),
    ):
        out = draw(process, solver, denoise, [1.0])
        assert np.all(out[:, 0] == 1.0)
        assert abs(out[:, 1].mean() - mean) < 0.04
        assert abs(out[:, 1].var() - variance) < 0.05


def test_the_start_and_the_impositions():
    process = PROCESSES.build(VE)
    fair, legacy = (known(process, [[0.5]] * 3, legacy=flag) for flag in (False, True))
    keys = toys.keys(3)
    x = noise(keys, SHAPE, process.start_std(1.0))
    started = fair.start(x, 1.0)
    np.testing.assert_allclose(started[:, 0, 0], 0.5 + x[:, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(started[:, 0, 1], x[:, 0, 1])
    np.testing.assert_array_equal(legacy.start(x, 1.0)[:, 0, 0], np.full((3, 1), 0.5))
    mean = jnp.ones_like(x)
    (a, m), (b, n) = (k.impose(x, mean, 0.5, keys) for k in (fair, legacy))
    np.testing.assert_array_equal(a, b)
    z = np.asarray(a[:, 0, 0, 0] - 0.5) / process.sigma(0.5)
    assert 0.05 < np.abs(z).max() < 4 and len(set(z.tolist())) == 3
    np.testing.assert_array_equal(m[:, 0, :, 0], [[0.5, 1.0]] * 3)
    np.testing.assert_array_equal(n[:, 0, 1], x[:, 0, 1])  # the noise is still there
    np.testing.assert_array_equal(fair.finish(mean)[:, 0, 0], np.full((3, 1), 0.5))
    np.testing.assert_array_equal(legacy.finish(mean), mean)


def test_vp_scales_what_is_known():
    process = PROCESSES.build({"name": "vp"})
    fair, legacy = (known(process, [[0.5]] * 3, legacy=flag) for flag in (False, True))
    keys = toys.keys(3)
    x = noise(keys, SHAPE)
    alpha, sigma = process.alpha(1.0), process.sigma(1.0)
    np.testing.assert_allclose(
        fair.start(x, 1.0)[:, 0, 0], 0.5 * alpha + sigma * x[:, 0, 0], rtol=1e-6
    )
    for k in (fair, legacy):
        _, mean = k.impose(x, x, 0.1, keys)
        np.testing.assert_allclose(mean[:, 0, 0, 0], 0.5 * process.alpha(0.1), rtol=1e-6)


def test_the_published_times_and_output():
    """legacy: the predictor's result is noised to t, and the output holds the last noise."""
    process = PROCESSES.build(VE)
    solver = SOLVERS.build({"name": "pc", "corrector": {"name": "none"}}).bind(process)
    grid = np.array([0.4, 0.2])
    keys = toys.keys(2000)
    x = noise(keys, SHAPE, process.sigma(0.4))
    predict = toys.predictor(toys.gaussian(process, *LAW))
    row = {k: v[0] for k, v in solver.rows(grid).items()}
    for legacy, t in ((False, 0.2), (True, 0.4)):
        what = known(process, [[0.5]] * 2000, legacy=legacy)
        imposed = Imposed(solver, what, 0.4)
        state = imposed.step(predict, imposed.init(x, ()), row, keys)
        spread = float(jnp.std(state.x[:, 0, 0]))
        assert abs(spread / process.sigma(t) - 1) < 0.06
        out = imposed.output(state)
        same = np.array_equal(out[:, 0, 1], state.x[:, 0, 1])
        assert same == legacy
        np.testing.assert_allclose(out[:, 0, 0], 0.5, rtol=1e-6)


def test_the_published_start_of_colours_cuts_out_red():
    operator = operators.colorize((2, 2, 3))
    process = PROCESSES.build(VE)
    x = noise(toys.keys(2), (2, 2, 3))
    start = known(process, jnp.ones((2, 2, 2)), operator=operator, legacy=True).start(x, 1.0)
    np.testing.assert_allclose(start[..., 0], 1 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(start[..., 1:], x[..., 1:] + 1 / np.sqrt(3), rtol=1e-6)


def test_images_do_not_depend_on_their_batch():
    process = PROCESSES.build(VE)
    denoise = toys.gaussian(process, *LAW)
    many, few = (draw(process, PC, denoise, [1.0], n=n, steps=10) for n in (9, 4))
    np.testing.assert_allclose(many[:4], few, rtol=1e-5, atol=1e-6)


def test_block_means_are_kept():
    process = PROCESSES.build({"name": "vp"})
    operator = operators.super_resolve(2, (4, 4, 1))
    x0 = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)), jnp.float32)
    solver = SOLVERS.build(PC).bind(process)
    grid = np.append(np.linspace(1, 1e-3, 20), 0)
    what = known(process, operator.measure(x0), operator=operator)
    out = sample(
        Imposed(solver, what, 1.0),
        toys.predictor(toys.gaussian(process, 0.0, 0.5)),
        solver.rows(grid),
        noise(toys.keys(3), (4, 4, 1)),
        toys.keys(3),
    )
    np.testing.assert_allclose(operator.measure(out), operator.measure(x0), atol=1e-5)
    assert float(jnp.abs(out - x0).max()) > 0.1
    picture = known_image(operator, operator.measure(x0 - 0.5), 0.5)
    np.testing.assert_allclose(picture, operator.lift(operator.measure(x0)), atol=1e-6)


def test_adaptive_solvers_are_refused():
    process = PROCESSES.build(VE)
    solver = SOLVERS.build({"name": "rk45"}).bind(process)
    with pytest.raises(UserError, match="adaptive"):
        Imposed(solver, known(process, [[0.5]]), 1.0)
    # The others can be wrapped; only pc imposes by itself.
    assert [n for n, c in SOLVERS.entries.items() if c.imposes] == ["pc"]
    assert dataclasses.is_dataclass(Imposed)
