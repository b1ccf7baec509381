import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VP, Cosine, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS, sample
from genjax.solvers.base import lam_ratio
from tests.solvers.solver_toys import (
    affine_map,
    bound,
    gaussian,
    keys,
    mixture,
    moments,
    predictor,
    run,
)

# Problem P1: VP, a two-component mixture; in one dimension the exact map is quantile matching.
P1 = ((0.3, 0.7), (-1.0, 0.6), (0.25, 0.4))
P1_STARTS = np.array([-1.5, -0.7, -0.2, 0.3, 0.9, 1.8])
P1_ENDS = np.array(
    [-1.1911836512, -0.7847804734, 0.2214119388, 0.5534570561, 0.8533949511, 1.2526637072]
)


def p1_errors(solver):
    grid = GRIDS.build({"name": "logsnr", "end": 1e-3, "zero": False})
    denoise = mixture(VP(), *P1)
    return np.array(
        [
            np.abs(run(solver, grid.times(VP(), n), denoise, P1_STARTS) - P1_ENDS).max()
            for n in (40, 80, 160, 320, 640)
        ]
    )


@pytest.mark.parametrize(
    ("name", "fields", "published", "order"),
    [
        ("ddim", {}, [6.59e-2, 3.16e-2, 1.55e-2, 7.67e-3, 3.82e-3], 1),
        ("euler", {"space": "lam"}, [6.59e-2, 3.16e-2, 1.55e-2, 7.67e-3, 3.82e-3], 1),
        (
            "heun",
            {"space": "lam", "t_floor": 1e-3},
            [6.43e-3, 1.54e-3, 3.78e-4, 9.43e-5, 2.36e-5],
            2,
        ),
    ],
)
def test_p1_errors_and_order(name, fields, published, order):
    errors = p1_errors(bound(name, VP(), **fields))
    np.testing.assert_allclose(errors, published, rtol=2e-3)
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(order, abs=0.15)
    assert np.log2(errors[-3] / errors[-2]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    ("eta", "uniform", "logsnr"),
    [
        (0.0, (0.140149140, 0.188299203), (0.154952751, 0.196827805)),
        (1.0, (0.111194120, 0.153427110), (0.111473811, 0.160903806)),
    ],
)
def test_p2_variance(monkeypatch, eta, uniform, logsnr):
    """P2: data N(0.5, 0.25), from the exact marginal at t = 1 down to t = 1e-3."""
    process = VP()
    alpha, sigma = process.alpha(1.0), process.sigma(1.0)
    for grid, expected in (
        ({"name": "uniform", "end": 1e-3}, uniform),
        ({"name": "logsnr", "end": 1e-3, "zero": False}, logsnr),
    ):
        for n, value in zip((10, 20), expected):
            mean, variance = moments(
                monkeypatch,
                bound("ddim", process, eta=eta),
                GRIDS.build(grid).times(process, n),
                gaussian(process, 0.5, 0.5),
                0.5 * alpha,
                0.25 * alpha**2 + sigma**2,
            )
            assert mean == pytest.approx(0.499972513, abs=6e-10)
            assert variance == pytest.approx(value, abs=6e-10)


@pytest.mark.parametrize(
    "process", [VP(), EDM(), RectifiedFlow(), Cosine(), Table()], ids=lambda p: type(p).__name__
)
def test_ddim_is_euler_in_lam(process):
    grid = np.linspace(process.t_max, 0, 14)
    ddim = bound("ddim", process).rows(grid)
    euler = bound("euler", process, space="lam").rows(grid)
    for name in ("a", "c"):
        np.testing.assert_allclose(ddim[name], euler[name], rtol=1e-10, atol=1e-13)


def test_flow_ddim_is_flow_euler():
    process, grid = RectifiedFlow(), np.linspace(1, 0, 9)
    ddim, euler = bound("ddim", process).rows(grid), bound("euler", process).rows(grid)
    for name in ("a", "c"):
        np.testing.assert_allclose(ddim[name], euler[name], rtol=1e-12, atol=1e-15)


def test_the_path_does_not_depend_on_the_scaling_of_the_process():
    """On shared noise levels, EDM, VP and flow walk the same path in x/alpha."""
    levels = np.geomspace(80, 0.01, 21)
    ends = []
    for process in (EDM(), VP(), RectifiedFlow()):
        grid = process.t_of_lam(levels)
        start, end = process.alpha(grid[0]), process.alpha(grid[-1])
        denoise = mixture(process, *P1)
        ends.append(run(bound("ddim", process), grid, denoise, P1_STARTS * 40 * start) / end)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-11)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-11)


def test_eta_between_mixes(monkeypatch):
    """eta^2 of the ancestral variance goes in as noise, the rest stays in the direction eps."""
    process, grid = VP(), np.array([0.6, 0.4])
    rows = {eta: bound("ddim", process, eta=eta).rows(grid) for eta in (0.3, 1.0)}
    np.testing.assert_allclose(rows[0.3]["s"], 0.3 * rows[1.0]["s"], rtol=1e-12)
    # whatever eta, noise and direction add up to the variance sigma'^2 of the next marginal
    for row in rows.values():
        direction = row["a"] * process.sigma(0.6)
        np.testing.assert_allclose(direction**2 + row["s"] ** 2, process.sigma(0.4) ** 2)
    ratio = lam_ratio(process, 0.6, 0.4)
    np.testing.assert_allclose(ratio, process.lam(0.4) / process.lam(0.6))


def test_deterministic_ddim_draws_nothing():
    assert "s" not in bound("ddim", VP()).rows(np.array([1.0, 0.0]))
    with pytest.raises(UserError, match="eta"):
        bound("ddim", VP(), eta=1.5)


def test_float32_agrees_with_float64():
    """The whole 1000-step trajectory in float32 stays within 2e-5 of float64."""
    process = Table()
    grid = GRIDS.build({"name": "trailing"}).times(process, 1000)
    solver, denoise = bound("ddim", process), gaussian(process, 0.5, 0.3)
    exact = run(solver, grid, denoise, P1_STARTS)
    x = jnp.asarray(P1_STARTS, jnp.float32)[:, None]
    single = jax.jit(lambda r, x, k: sample(solver, predictor(denoise), r, x, k))(
        solver.rows(grid), x, keys(6)
    )
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single[:, 0], exact, atol=2e-5)
    assert affine_map(solver, grid, denoise)[1] == pytest.approx(0.298541, abs=1e-4)
