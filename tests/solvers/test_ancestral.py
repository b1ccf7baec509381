import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import VP, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS, sample
from tests.solvers.solver_toys import affine_map, bound, gaussian, keys, moments, predictor

RESPACED = GRIDS.build({"name": "respaced"})


# standard deviation of what DDPM draws, exact noise prediction, data N(0.5, 0.3^2):
# steps, learned-range v = -1, 0, +1, and DDIM's slope
TABLE = [
    (1000, 0.296253, 0.298542, 0.300922, 0.298541),
    (250, 0.286978, 0.295071, 0.304227, 0.294680),
    (50, 0.252169, 0.280576, 0.322901, 0.274500),
    (10, 0.163610, 0.213592, 0.440989, None),
]


@pytest.mark.parametrize(("n", "small", "middle", "large", "ddim"), TABLE)
def test_moments_of_dit_sampling(monkeypatch, n, small, middle, large, ddim):
    process = Table()
    denoise, grid = gaussian(process, 0.5, 0.3), RESPACED.times(process, n)
    solver = bound("ddpm", process, variance="learned")
    for v, expected in ((-1.0, small), (0.0, middle), (1.0, large)):
        mean, variance = moments(monkeypatch, solver, grid, denoise, 0.0, 1.0, v=v)
        assert mean == pytest.approx(0.499998, abs=6e-7)
        assert np.sqrt(variance) == pytest.approx(expected, abs=6e-7)
    for kind, expected in (("small", small), ("large", large)):
        fixed = bound("ddpm", process, variance=kind)
        _, variance = moments(monkeypatch, fixed, grid, denoise, 0.0, 1.0)
        assert np.sqrt(variance) == pytest.approx(expected, abs=6e-7)
    if ddim is not None:
        offset, slope = affine_map(bound("ddim", process), grid, denoise)
        # a deterministic map keeps what N(0, 1) lacks of the mean at the last time
        assert offset == pytest.approx(0.5 - slope * 0.5 * np.sqrt(4.03583e-5), abs=1e-8)
        assert slope == pytest.approx(ddim, abs=6e-7)


def test_rows_are_the_respaced_posterior_of_ddpm():
    """Against the papers' own tables, rebuilt from kept products of (1 - beta)."""
    beta = np.linspace(1e-4, 2e-2, 1000)
    kept = np.round(np.arange(50) * 999 / 49).astype(int)
    abar = np.cumprod(1 - beta)[kept]
    before = np.append(1.0, abar[:-1])
    new = 1 - abar / before
    small = new * (1 - before) / (1 - abar)
    small[0] = small[1]
    process = Table()
    rows = bound("ddpm", process).rows(RESPACED.times(process, 50))
    expected = {
        "c": new * np.sqrt(before) / (1 - abar),
        "a": (1 - before) * np.sqrt(1 - new) / (1 - abar),
        "log_small": np.log(small),
        "log_large": np.log(new),
        "noise": (np.arange(50) > 0).astype(float),
        "t": kept + 1.0,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(rows[name][::-1], value, rtol=2e-9, atol=1e-14, err_msg=name)


def test_log_variance_of_the_first_entries():
    process = Table()
    rows = bound("ddpm", process).rows(RESPACED.times(process, 1000))
    assert rows["log_small"][-2:] == pytest.approx([-9.81672514] * 2, abs=5e-9)
    assert rows["log_large"][-1] == pytest.approx(-9.21034037, abs=5e-9)


@pytest.mark.parametrize(
    "process", [Table(), VP(), RectifiedFlow()], ids=lambda p: type(p).__name__
)
def test_ddim_of_eta_1_is_ddpm_with_the_small_variance(process):
    grid = np.linspace(process.t_max, 0, 13)
    denoise = gaussian(process, 0.5, 0.3)
    x, k = jax.random.normal(jax.random.key(3), (4, 2, 2, 1)), keys(4)
    with jax.enable_x64(True):
        outs = [
            sample(s, predictor(denoise), s.rows(grid), x.astype(jnp.float64), k)
            for s in (bound("ddpm", process), bound("ddim", process, eta=1.0))
        ]
    outs = [np.asarray(out) for out in outs]
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-10)
    assert outs[0].std() > 0.05


def test_one_step_returns_the_denoised_noise():
    process = Table()
    solver = bound("ddpm", process)
    x = jax.random.normal(jax.random.key(0), (3, 2))
    denoise = gaussian(process, 0.5, 0.3)
    out = sample(solver, predictor(denoise), solver.rows(RESPACED.times(process, 1)), x, keys(3))
    np.testing.assert_allclose(out, denoise(x, 1000.0), rtol=1e-5)


def test_steps_of_length_zero_change_nothing():
    process = Table()
    x = jax.random.normal(jax.random.key(0), (3, 2))
    for solver in (
        bound("ddpm", process),
        bound("ddim", process, eta=1.0),
        bound("euler", process),
        bound("heun", process),
        bound("heun", process, space="lam"),
        bound("sit_sde", process),
    ):
        row = jax.tree.map(lambda a: jnp.float32(a[0]), solver.rows(np.array([9.0, 9.0, 9.0, 0.0])))
        state = solver.step(
            predictor(gaussian(process, 0.5, 0.3)), solver.init(x, ()), row, keys(3)
        )
        np.testing.assert_allclose(state.x, x, rtol=1e-5, atol=1e-6, err_msg=str(solver))


def test_learned_variance_needs_a_network_that_predicts_it():
    process = Table()
    solver = bound("ddpm", process, variance="learned")
    rows = solver.rows(RESPACED.times(process, 3))
    with pytest.raises(UserError, match="variance"):
        sample(solver, predictor(gaussian(process, 0, 1)), rows, jnp.zeros((2, 2)), keys(2))
    with pytest.raises(UserError, match="variance must be"):
        bound("ddpm", process, variance="none")
