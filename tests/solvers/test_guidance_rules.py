"""The rules of guidance: their identities, closed forms, and what they remember."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import VP, RectifiedFlow
from genjax.solvers import GUIDANCES, noise, sample
from tests.solvers.solver_toys import bound, keys
from tests.solvers.test_guidance import COND, NULL, X, guided, network, plain
from tests.tasks import tiny

FLOW, GRID = RectifiedFlow(), np.linspace(1, 0, 7)
PLAIN = guided(FLOW, GRID, {"name": "cfg", "weight": 3.0})


def rule(**fields):
    return guided(FLOW, GRID, {"weight": 3.0, **fields})


def once(guidance, x=X, t=0.6, w=3.0, steps=1):
    """Returns the last of `steps` predictions at the same x, and its memory."""
    made = GUIDANCES.build(guidance)
    predict, memory = made.wrap(network(FLOW, []), COND, NULL)
    memory = memory(x) if callable(memory) else memory
    out = None
    for _ in range(steps):
        row = {"t": jnp.float32(t), "w": jnp.float32(w), "on": jnp.asarray(w != 1)}
        out, memory = predict(x, row, memory)
    return out, memory


def branches(t=0.6):
    denoise = network(FLOW, [])
    x0 = [denoise(X, jnp.float32(t), c, None).x0 for c in (COND, NULL)]
    return [np.asarray(v, np.float64) for v in x0]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "rescaled", "phi": 0.0},
        {"name": "apg", "eta": 1.0, "beta": 0.0},
        {"name": "apg", "eta": 1.0, "beta": 0.0, "r": 1e6},
    ],
)
def test_rules_at_their_neutral_options_are_the_plain_one(fields):
    np.testing.assert_allclose(rule(**fields), PLAIN, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rescaled", "apg", "cfg_zero"])
def test_weight_one_is_the_conditional_model(name):
    out = guided(FLOW, GRID, {"name": name, "weight": 1.0})
    np.testing.assert_allclose(out, plain(FLOW, GRID, 0.8), rtol=1e-6, atol=1e-6)


def test_inside_an_interval_lambda_one_is_still_not_conditional_ddim():
    grid, everywhere = GRID[1:], (0.0, 1e6)
    own = guided(FLOW, grid, {"name": "cfgpp", "weight": 1.0})
    within = guided(FLOW, grid, {"name": "cfgpp", "weight": 1.0, "interval": everywhere})
    np.testing.assert_array_equal(within, own)
    assert np.abs(own - plain(FLOW, grid, 0.8)).max() > 1e-2


@pytest.mark.parametrize("name", ["cfg", "cfgpp", "apg"])
def test_images_with_times_of_their_own_are_guided_where_their_time_lies(name):
    made = GUIDANCES.build({"name": name, "weight": 0.6, "interval": (0.5, 5.0)})
    predict, memory = made.wrap(network(FLOW, []), COND, NULL)
    memory = memory(X) if callable(memory) else memory
    row = {"t": jnp.asarray([0.6, 0.1]), "w": jnp.float32(0.6), "on": jnp.asarray([True, False])}
    out, _ = predict(X, row, memory)
    alone, _ = predict(X, {"t": jnp.float32(0.1), "w": row["w"], "on": jnp.asarray(False)}, memory)
    np.testing.assert_allclose(out.x0[1], alone.x0[1], rtol=1e-5, atol=1e-6)
    here, _ = predict(X, {"t": jnp.float32(0.6), "w": row["w"], "on": jnp.asarray(True)}, memory)
    np.testing.assert_allclose(out.x0[0], here.x0[0], rtol=1e-5, atol=1e-6)
    if name == "cfgpp":
        np.testing.assert_allclose(out.x0_noise[1], alone.x0_noise[1], rtol=1e-5, atol=1e-6)


def test_full_rescaling_keeps_the_conditional_deviation():
    yes, no = branches()
    x0 = np.asarray(once({"name": "rescaled", "phi": 1.0})[0].x0)
    np.testing.assert_allclose(x0.std((1, 2, 3)), yes.std((1, 2, 3)), rtol=1e-5)
    both = no + 3 * (yes - no)
    half = np.asarray(once({"name": "rescaled", "phi": 0.5})[0].x0)
    np.testing.assert_allclose(half, 0.5 * x0 + 0.5 * both, rtol=1e-4, atol=1e-5)


def test_apg_splits_shortens_and_remembers():
    yes, no = branches()
    unit = yes / np.sqrt((yes**2).sum((1, 2, 3), keepdims=True))
    d = yes - no

    def across(d, eta=0.0):
        along = (d * unit).sum((1, 2, 3), keepdims=True) * unit
        return yes + 2 * (d - along + eta * along)

    found, _ = once({"name": "apg", "beta": 0.0})
    np.testing.assert_allclose(found.x0, across(d), rtol=1e-4, atol=1e-5)
    length = np.sqrt((d**2).sum((1, 2, 3), keepdims=True))
    found, _ = once({"name": "apg", "beta": 0.0, "r": 0.5, "eta": 0.3})
    np.testing.assert_allclose(found.x0, across(d * 0.5 / length, 0.3), rtol=1e-4, atol=1e-5)
    # Three predictions: d, d (1 + beta), d (1 + beta + beta^2).
    found, memory = once({"name": "apg", "beta": -0.5}, steps=3)
    np.testing.assert_allclose(memory, d * 0.75, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.x0, across(d * 0.75), rtol=1e-4, atol=1e-5)


def test_apg_from_either_branch_agrees_only_along_and_across():
    """Trap 11: from D_null with w and from D_cond with w - 1 agree only for eta = 1."""
    yes, no = branches()
    d = yes - no
    whole = np.asarray(once({"name": "apg", "beta": 0.0, "eta": 1.0})[0].x0)
    np.testing.assert_allclose(whole, no + 3 * d, rtol=1e-4, atol=1e-5)
    part = np.asarray(once({"name": "apg", "beta": 0.0, "eta": 0.0})[0].x0)
    assert np.abs(part - (no + 3 * d)).max() > 0.1


def test_cfg_zero_scales_the_null_branch():
    yes, no = branches()
    axes = (1, 2, 3)
    s = (yes * no).sum(axes, keepdims=True) / (no * no).sum(axes, keepdims=True)
    found, _ = once({"name": "cfg_zero"})
    np.testing.assert_allclose(found.x0, s * no + 3 * (yes - s * no), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "cfg", "weight": 3.0},
        {"name": "cfg", "weight": 1.0},
        {"name": "none"},
        {"name": "cfg", "weight": 3.0, "interval": (0.0, 0.1)},  # not where it is asked
    ],
)
def test_thresholds_are_of_each_image_guided_or_not(fields):
    x = X.at[1].multiply(20.0)
    w = 3.0 if fields.get("weight") == 3.0 and "interval" not in fields else 1.0
    free, _ = once(fields, x=x, w=w)
    found, _ = once({**fields, "threshold": 0.9}, x=x, w=w)
    assert np.abs(free.x0[1]).max() > 2
    for i in range(2):
        s = max(np.quantile(np.abs(free.x0[i]), 0.9), 1.0)
        np.testing.assert_allclose(found.x0[i], np.clip(free.x0[i], -s, s) / s, rtol=1e-5)


@pytest.mark.parametrize("process", [RectifiedFlow(), VP()], ids=["flow", "vp"])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_cfgpp_takes_the_noise_of_the_null_branch(process, lam):
    grid = np.linspace(0.9, 0.1, 6)
    found = guided(process, grid, {"name": "cfgpp", "weight": lam})
    x = np.asarray(X, np.float64)
    denoise = network(process, [])
    for t, t_next in itertools.pairwise(grid):  # the sheet's step, written out
        yes, no = (
            np.asarray(denoise(jnp.asarray(x, jnp.float32), jnp.float32(t), c, None).x0)
            for c in (COND, NULL)
        )
        eps = (x - process.alpha(t) * no) / process.sigma(t)
        x = process.alpha(t_next) * (no + lam * (yes - no)) + process.sigma(t_next) * eps
    np.testing.assert_allclose(found, x, rtol=2e-4, atol=2e-5)
    conditional = plain(process, grid, 0.8)
    null = plain(process, grid, -0.3)
    assert np.abs(found - conditional).max() > 0.01  # trap 10: not at lambda = 1 either
    assert (np.abs(found - null).max() < 1e-4) == (lam == 0)


def test_cfgpp_of_a_multistep_solver():
    """2M's step on the null estimates, and alpha' (D - D_null); at lambda = 0 the null model."""
    process, grid, lam = VP(), np.linspace(0.9, 0.1, 6), 0.7
    solver = bound("dpmpp_2m", process, lower_order_final=False)
    found = guided(process, grid, {"name": "cfgpp", "weight": lam}, solver=solver)
    rows, x, before = solver.rows(grid), np.asarray(X, np.float64), None
    denoise = network(process, [])
    for i, t in enumerate(grid[:-1]):
        yes, no = (
            np.asarray(denoise(jnp.asarray(x, jnp.float32), jnp.float32(t), c, None).x0)
            for c in (COND, NULL)
        )
        past = rows["c"][i, 1] * before if i else 0.0
        x = rows["a"][i] * x + rows["c"][i, 0] * no + past
        x, before = x + process.alpha(grid[i + 1]) * lam * (yes - no), no
    np.testing.assert_allclose(found, x, rtol=2e-4, atol=2e-5)
    null = guided(process, grid, {"name": "cfgpp", "weight": 0.0}, solver=solver)
    want = plain(process, grid, -0.3, solver=solver)
    np.testing.assert_allclose(null, want, rtol=2e-5, atol=1e-5)


def test_cfgpp_needs_a_solver_that_can_put_noise_back():
    sampler = {"guidance": {"name": "cfgpp"}, "steps": 3}
    for name in ("ddim", "euler_ancestral", "dpmpp_2m", "deis"):
        task = tiny.task(sampler={**sampler, "solver": {"name": name}})
        assert task.rows()["alpha_next"].shape == (3,)
    for name in ("heun", "unipc", "ipndm", "ddpm", "dpm_solver"):
        task = tiny.task(sampler={**sampler, "solver": {"name": name}, "grid": {"end": 0.01}})
        with pytest.raises(UserError, match="cannot; choose ddim"):
            task.rows()


def test_autoguidance_goes_away_from_the_worse_network():
    """P4 with two networks of the same condition: the paths of N(m_b + w (m_g - m_b), s^2)."""
    made = GUIDANCES.build({"name": "autoguidance", "model": "elsewhere", "weight": 2.5})
    other = lambda x, t, cond, inputs: network(FLOW, [])(x, t, NULL, inputs)  # noqa: E731
    solver = bound("heun", FLOW)
    predict, memory = made.wrap(network(FLOW, []), COND, None, other)
    rows = made.rows(FLOW, solver.rows(GRID))
    found = sample(solver, predict, rows, X, keys(2), memory)
    want = plain(FLOW, GRID, -0.3 + 2.5 * 1.1, solver="heun")
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)
    out, _ = predict(X, {"t": jnp.float32(0.5), "w": jnp.float32(2.5), "inputs": {"shift": 0}}, ())
    assert out.x0_null is None and not out.variance.any()  # of the good network
    with pytest.raises(UserError, match="worse network"):
        made.wrap(network(FLOW, []), COND, None)
    with pytest.raises(UserError, match="model"):
        GUIDANCES.build({"name": "autoguidance"})


def test_autoguidance_of_a_task_reads_the_second_network_from_frozen():
    sampler = {"solver": {"name": "ddim"}, "steps": 3}
    rule = {"name": "autoguidance", "model": "elsewhere", "weight": 3.0}
    task = tiny.task(sampler={**sampler, "guidance": rule})
    small = tiny.task(model={"width": 8})
    good, bad = (tiny.parameters(t)["model"] for t in (task, small))
    draw_keys, cond = keys(2), {"label": jnp.array([1, 2])}
    other = {"guide": small.network(bad)}
    found = jax.jit(task.draw)(good, other, task.rows(), draw_keys, cond)
    # the same by hand
    rows, x = task.rows(), noise(draw_keys, task.shape)
    for i in range(3):
        t = float(rows["t"][i])
        d = [n.network(p)(x, t, cond).x0 for n, p in ((task, good), (small, bad))]
        x = rows["a"][i] * x + rows["c"][i] * (d[1] + 3.0 * (d[0] - d[1]))
    np.testing.assert_allclose(found, x, rtol=2e-4, atol=2e-4)
    with pytest.raises(UserError, match="while training"):
        task.draw(good, {}, rows, draw_keys, cond)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"name": "rescaled", "phi": 1.5}, "phi"),
        ({"name": "cfgpp", "weight": 2.0}, "weight"),
        ({"name": "apg", "r": 0.0}, "r must"),
        ({"name": "cfg", "threshold": 0.0}, "threshold"),
        ({"name": "rescaled", "interval": (2.0, 1.0)}, "interval"),
    ],
)
def test_options_out_of_range(fields, word):
    with pytest.raises(UserError, match=word):
        GUIDANCES.build(fields)


@pytest.mark.parametrize("name", ["rescaled", "cfgpp", "apg", "cfg_zero"])
def test_an_image_does_not_depend_on_the_others_and_weights_do_not_compile(name):
    made = GUIDANCES.build({"name": name, "interval": (0.2, 5.0)})
    solver = bound("ddim", FLOW)
    traces = []

    def draw(rows, x, keys, cond, null):
        traces.append(x.shape)
        predict, memory = made.wrap(network(FLOW, []), cond, null)
        return sample(solver, predict, rows, x, keys, memory)

    draw = jax.jit(draw)
    own = keys(2)
    rows = made.rows(FLOW, solver.rows(GRID))
    both = draw(rows, X, own, COND, NULL)
    one = jax.tree.map(lambda a: a[:1], (X, own, COND, NULL))
    np.testing.assert_allclose(draw(rows, *one)[0], both[0], rtol=1e-5, atol=1e-6)
    count = len(traces)
    moved = draw({**rows, "w": 0.5 * rows["w"]}, X, own, COND, NULL)
    assert len(traces) == count and np.abs(moved - both).max() > 1e-3
