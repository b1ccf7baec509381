from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import VP, RectifiedFlow
from genjax.solvers import GRIDS, GUIDANCES, sample
from genjax.solvers.base import at
from tests.solvers.solver_toys import bound, gaussian, keys, predictor

MEANS = (0.8, -0.3)  # of the labels 0 and 1; 1 is the null label
COND, NULL = {"label": jnp.zeros(2, jnp.int32)}, {"label": jnp.ones(2, jnp.int32)}
X = jax.random.normal(jax.random.key(1), (2, 3, 3, 4))


def network(process, log):
    """Returns denoise(x, t, cond, inputs) of class-conditional Gaussians; logs batch sizes."""

    def denoise(x, t, cond, inputs):
        jax.debug.callback(lambda _: log.append(x.shape[0]), x[0])
        label = cond["label"].reshape(-1, *(1,) * (x.ndim - 1))
        x0 = gaussian(process, jnp.asarray(MEANS, x.dtype)[label], 0.5)(x, t)
        zero = jnp.zeros((), jnp.int32) if inputs is None else inputs["shift"]
        return SimpleNamespace(x0=x0 + zero, variance=label + 0 * x, features={"h": 2 * label})

    return denoise


def guided(process, grid, guidance, x=X, solver="ddim", log=None):
    guidance = GUIDANCES.build(guidance)
    predict, memory = guidance.wrap(network(process, [] if log is None else log), COND, NULL)
    solver = bound(solver, process) if isinstance(solver, str) else solver
    rows = guidance.rows(process, solver.rows(grid))
    out = jax.jit(lambda r, x, k: sample(solver, predict, r, x, k, memory))(rows, x, keys(2))
    jax.effects_barrier()
    return np.asarray(out)


def plain(process, grid, mean, x=X, solver="ddim"):
    solver = bound(solver, process) if isinstance(solver, str) else solver
    return np.asarray(
        sample(solver, predictor(gaussian(process, mean, 0.5)), solver.rows(grid), x, keys(2))
    )


@pytest.mark.parametrize(("solver", "w"), [("ddim", 0.0), ("heun", 4.0), ("sit_sde", 1.5)])
def test_p4_guided_gaussians_are_a_shifted_gaussian(solver, w):
    """With equal variances, guidance w gives exactly the paths of N(m_u + w (m_c - m_u), s^2)."""
    process, grid = RectifiedFlow(), np.linspace(1, 0, 9)
    out = guided(process, grid, {"name": "cfg", "weight": w}, solver=solver)
    expected = plain(process, grid, -0.3 + w * 1.1, solver=solver)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


def test_p4_final_mean_and_variance():
    process, w = VP(), 2.5
    grid = GRIDS.build({"name": "logsnr", "end": 1e-3, "zero": False}).times(process, 600)
    with jax.enable_x64(True):
        x = jnp.zeros((2, 1, 1, 1), jnp.float64).at[1].set(1.0)
        log = []
        out = guided(process, grid, {"name": "cfg", "weight": w}, x=x, log=log, solver="heun")
        out = out.ravel()
    assert len(log) == 2 * 600 - 1 and set(log) == {4}  # one doubled batch a call

    def marginal(t):
        return np.sqrt((0.5 * process.alpha(t)) ** 2 + process.sigma(t) ** 2)

    mean, slope = -0.3 + w * 1.1, marginal(1e-3) / marginal(1.0)
    assert out[1] - out[0] == pytest.approx(slope, abs=5e-5)
    expected = process.alpha(1e-3) * mean - slope * process.alpha(1.0) * mean
    assert out[0] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_interval_is_guided_inside_and_conditional_outside(solver):
    process, lo, hi, w, log = RectifiedFlow(), 0.3, 2.0, 3.0, []
    grid = np.linspace(1, 0, 21)
    out = guided(
        process,
        grid,
        {"name": "cfg", "weight": w, "interval": [lo, hi]},
        solver=solver,
        log=log,
    )

    def piecewise(x, t):
        lam = t / (1 - t)
        inside = (lam > lo) & (lam <= hi)
        return gaussian(process, jnp.where(inside, -0.3 + w * 1.1, 0.8), 0.5)(x, t)

    solver = bound(solver, process)
    expected = sample(solver, predictor(piecewise), solver.rows(grid), X, keys(2))
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    times = list(grid[:-1]) + (list(grid[1:-1]) if len(log) > 20 else [])
    inside = sum(lo < t / max(1 - t, 1e-9) <= hi for t in times)
    # outside, the null branch is not evaluated
    assert sorted(log) == [2] * (len(times) - inside) + [4] * inside and 0 < inside < len(times)


def test_weights_of_the_rows():
    process, grid = RectifiedFlow(), np.linspace(1, 0, 5)
    cfg = GUIDANCES.build({"name": "cfg", "weight": 3.0, "interval": [0.3, 1.0]})
    rows = cfg.rows(process, bound("heun", process).rows(grid))
    assert rows["w"].tolist() == [1, 1, 3, 3]  # lam = inf, 3, 1, 1/3: open below, closed above
    assert rows["w_2"].tolist() == [1, 3, 3, 1]  # the second stage has the weight of its own time
    second = at(rows, "_2")
    assert second["w"].tolist() == [1, 3, 3, 1] and second["t"].tolist() == [0.75, 0.5, 0.25, 0]


def test_channels_variance_and_features():
    process = RectifiedFlow()
    cfg = GUIDANCES.build({"name": "cfg", "weight": 3.0, "channels": 3})
    predict, _ = cfg.wrap(network(process, []), COND, NULL)
    out, _ = predict(X, {"t": jnp.float32(0.5), "w": jnp.float32(3.0)}, ())
    first, last = gaussian(process, -0.3 + 3 * 1.1, 0.5), gaussian(process, 0.8, 0.5)
    np.testing.assert_allclose(out.x0[..., :3], first(X, 0.5)[..., :3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.x0[..., 3], last(X, 0.5)[..., 3], rtol=1e-5)
    np.testing.assert_allclose(out.x0_null, gaussian(process, -0.3, 0.5)(X, 0.5), rtol=1e-5)
    assert not out.variance.any() and out.variance.shape == X.shape  # of the conditional branch
    assert out.features["h"].shape[0] == 2 and not out.features["h"].any()


@pytest.mark.parametrize("guidance", [{"name": "none"}, {"name": "cfg", "weight": 1.0}])
def test_no_guidance_evaluates_no_null_branch(guidance):
    process, log = RectifiedFlow(), []
    out = guided(process, np.linspace(1, 0, 5), guidance, log=log)
    assert log == [2] * 4
    np.testing.assert_allclose(out, plain(process, np.linspace(1, 0, 5), 0.8), rtol=1e-6)
    predict, _ = GUIDANCES.build(guidance).wrap(network(process, []), COND, None)
    assert predict(X, {"t": 0.5}, ())[0].x0_null is None


def test_times_and_weights_of_single_images_and_inputs():
    process = RectifiedFlow()
    predict, _ = GUIDANCES.build({"name": "cfg"}).wrap(network(process, []), COND, NULL)
    t, w = jnp.array([0.3, 0.7]), jnp.array([2.0, 5.0])
    both, _ = predict(X, {"t": t, "w": w, "inputs": {"shift": 1.0}}, ())
    for i in range(2):
        expected = gaussian(process, -0.3 + float(w[i]) * 1.1, 0.5)(X[i], t[i]) + 1
        np.testing.assert_allclose(both.x0[i], expected, rtol=1e-4, atol=1e-5)


def test_a_sharded_batch_is_doubled_without_communication():
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    cond = {"label": jax.device_put(jnp.zeros(16, jnp.int32), sharding)}
    x = jax.device_put(jnp.ones((16, 4, 4, 4)), sharding)
    cfg = GUIDANCES.build({"name": "cfg", "weight": 2.0})

    def call(x, cond):
        null = {"label": cond["label"] + 1}

        def denoise(x, t, cond, inputs):
            x0 = gaussian(RectifiedFlow(), cond["label"].reshape(-1, 1, 1, 1), 0.5)(x, t)
            return SimpleNamespace(x0=x0, variance=None, features={})

        return cfg.wrap(denoise, cond, null)[0](x, {"t": 0.5, "w": 2.0}, ())[0].x0

    text = jax.jit(call, out_shardings=sharding).lower(x, cond).compile().as_text()
    for collective in ("all-to-all", "all-gather", "collective-permute", "all-reduce"):
        assert collective not in text


def test_errors():
    cfg = GUIDANCES.build({"name": "cfg"})
    with pytest.raises(UserError, match="conditional network"):
        cfg.wrap(network(VP(), []), None, None)
    for fields in ({"interval": [2.0, 1.0]}, {"interval": [-1.0, 1.0]}, {"channels": 0}):
        with pytest.raises(UserError, match=next(iter(fields))):
            GUIDANCES.build({"name": "cfg", **fields})
