"""Time-Shift: selection, its known biases, the sign of either mode, and its limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import PROCESSES
from genjax.solvers import GRIDS, sample
from genjax.solvers.time_shift import SHIFTS, Shifted, TimeShift
from tests.solvers.solver_toys import bound, gaussian, keys, predictor
from tests.tasks import tiny

TABLE = PROCESSES.build({"name": "table", "betas": "linear", "n": 1000})
D = 3072
BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def chooser(**fields):
    shifted = Shifted(bound("ddim", TABLE), TimeShift(**fields))
    return jax.jit(lambda x, centre, half: shifted.choose(x, centre, half))


def draw(b, variance, seed=0, d=D):
    """Returns [b, d] of N(0, variance)."""
    z = np.random.default_rng(seed).standard_normal((b, d), dtype=np.float32)
    return jnp.asarray(z * np.sqrt(variance), jnp.float32)


def indices(found):
    return np.asarray(found).astype(int) - 1


def grid(name, n, **fields):
    return GRIDS.build({"name": name, **fields}).times(TABLE, n)


def run(shift, solver="ddim", steps=20, b=64, d=D, std=0.5, **fields):
    """Returns samples of Gaussian data N(0, std^2) with the exact denoiser."""
    solver = bound(solver, TABLE, **fields)
    shift = SHIFTS.build(shift)
    rows = shift.rows(TABLE, solver.rows(grid("leading", steps)))
    made, predict = shift.apply(solver, predictor(gaussian(TABLE, 0.0, std)))
    x = draw(b, 1.0, 7, d).reshape(b, d, 1, 1)
    return np.asarray(jax.jit(lambda rows, x: sample(made, predict, rows, x, keys(b)))(rows, x))


def test_a_sample_of_known_variance_finds_its_time():
    z = np.random.default_rng(0).standard_normal((41, D))
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True, ddof=1)
    wanted = np.arange(480, 521)
    x = jnp.asarray(np.sqrt(1 - BAR[wanted])[:, None] * z, jnp.float32)
    found = chooser(window=40, cutoff=0)(x, jnp.full(41, 501.0), 20)
    np.testing.assert_array_equal(indices(found), wanted)
    narrow = chooser(window=10, cutoff=0, widest=40)(x, jnp.full(41, 501.0), 5)
    np.testing.assert_array_equal(indices(narrow), np.clip(wanted, 495, 505))
    none = chooser(window=40, cutoff=0)(x, jnp.full(41, 501.0), 0)
    np.testing.assert_array_equal(indices(none), 500)


def test_at_high_noise_the_choice_is_a_coin_toss_between_the_windows_ends():
    choose = chooser(window=40, cutoff=0)
    n = 4000
    for centre, share in ((900, 0.5), (300, 0.0)):
        found = indices(choose(draw(n, 1 - BAR[centre]), jnp.full(n, centre + 1.0), 20))
        for end in (centre - 20, centre + 20):
            assert np.mean(found == end) == pytest.approx(share, abs=0.03 if share else 0.01)


def test_measured_a_step_too_early_the_choice_is_the_top():
    found = indices(chooser(window=40, cutoff=0)(draw(500, 1 - BAR[501]), jnp.full(500, 402.0), 20))
    np.testing.assert_array_equal(found, 421)


@pytest.mark.parametrize(("centre", "shift"), [(300, 0.1), (200, 0.03), (500, 1.4)])
def test_the_datas_own_variance_can_be_counted(centre, shift):
    n, v0 = 4000, 0.25
    x = draw(n, BAR[centre] * v0 + 1 - BAR[centre])
    fields = {"window": 80, "cutoff": 0, "variance_target": "marginal", "v0": v0}
    found = indices(chooser(**fields)(x, jnp.full(n, centre + 1.0), 40)) - centre
    assert np.mean(found) == pytest.approx(shift, abs=0.5)
    plain = indices(chooser(window=80, cutoff=0)(x, jnp.full(n, centre + 1.0), 40)) - centre
    if centre == 200:  # 61 too high, the window ends at 40
        assert np.mean(plain == 40) > 0.99
    if centre == 300:  # 44 too high
        assert np.mean(plain) > 35


def test_the_two_modes_have_opposite_signs():
    base = run({"name": "none"}).std()
    fields = {"name": "time_shift", "window": 40, "cutoff": 300}
    paper = run({**fields, "cutoff_on": "next"}).std()
    printed = run(fields).std()  # shifts one state more
    released = run({**fields, "mode": "ts_dpm"}).std()
    assert base == pytest.approx(0.434, abs=0.003)
    assert paper == pytest.approx(0.418, abs=0.003)
    assert printed < paper
    assert released == pytest.approx(0.455, abs=0.003)


SOLVERS = [
    ("ddim", {}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {}),
    ("pndm", {"form": "f"}),
    ("pndm", {"form": "s"}),
    ("dpm_solver_multistep", {"order": 2}),
    ("deis", {}),
]


@pytest.mark.parametrize("mode", ["paper", "ts_dpm"])
@pytest.mark.parametrize(("solver", "fields"), SOLVERS)
def test_no_window_or_a_high_cutoff_is_the_solver_itself(solver, fields, mode):
    small = {"solver": solver, "steps": 6, "b": 3, "d": 12, **fields}
    base = run({"name": "none"}, **small)
    for window, cutoff in ((0, 0), (40, 1000)):
        shift = {"name": "time_shift", "window": window, "cutoff": cutoff, "mode": mode}
        np.testing.assert_array_equal(run(shift, **small), base)
    moved = run({"name": "time_shift", "window": 40, "cutoff": 200, "mode": mode}, **small)
    assert np.abs(moved - base).max() > 1e-4 and np.isfinite(moved).all()


@pytest.mark.parametrize("mode", ["paper", "ts_dpm"])
def test_three_steps_by_hand(mode):
    """DDIM in its textbook form, with times looked up in the table, an image at a time."""
    b, d, window, cutoff = 4, 48, 60, 100
    found = run(
        {"name": "time_shift", "window": window, "cutoff": cutoff, "mode": mode},
        steps=4, b=b, d=d,
    ).reshape(b, d)  # fmt: skip
    level = np.append(BAR, 1.0)  # the last entry, index -1, is the data
    for i in range(b):
        x = np.asarray(draw(b, 1.0, 7, d), np.float64)[i]
        told = None
        for number, (t, after) in enumerate([(750, 500), (500, 250), (250, 0), (0, -1)]):
            source = told if told is not None and mode == "paper" else t
            window_at = np.clip(np.arange(after - 30, after + 31), 0, 999)
            end = after
            if mode == "ts_dpm" and number and after > cutoff:
                end = window_at[np.argmin(np.abs(x.var(ddof=1) - (1 - BAR[window_at])))]
            seen = source if mode == "paper" else t
            x0 = np.sqrt(level[seen]) * 0.25 * x / (level[seen] * 0.25 + 1 - level[seen])
            eps = (x - np.sqrt(level[seen]) * x0) / np.sqrt(1 - level[seen])
            x = np.sqrt(level[end]) * x0 + np.sqrt(1 - level[end]) * eps
            told = None
            if mode == "paper" and t > cutoff:
                told = window_at[np.argmin(np.abs(x.var(ddof=1) - (1 - BAR[window_at])))]
        np.testing.assert_allclose(found[i], x, rtol=1e-4, atol=2e-5)


def test_cutoffs_compare_the_time_they_say():
    rows = bound("ddim", TABLE).rows(grid("leading", 10))
    t = rows["t"] - 1
    for fields, first, last in (
        ({}, 900, 400),
        ({"cutoff_on": "next"}, 900, 500),
        ({"mode": "ts_dpm"}, 800, 500),
    ):
        half = TimeShift(window=20, cutoff=300, **fields).rows(TABLE, rows)["half"]
        np.testing.assert_array_equal(half, np.where((t <= first) & (t >= last), 10, 0))


def test_windows_are_values_of_the_rows():
    solver = bound("ddim", TABLE)
    base = solver.rows(grid("leading", 8))
    traces = []

    def fn(rows, x):
        traces.append(1)
        made, predict = TimeShift(window=0, cutoff=0, widest=80).apply(
            solver, predictor(gaussian(TABLE, 0.0, 0.5))
        )
        return sample(made, predict, rows, x, keys(3))

    fn, x = jax.jit(fn), draw(3, 1.0, d=12).reshape(3, 12, 1, 1)
    outs = [
        fn(TimeShift(window=w, cutoff=c, widest=80).rows(TABLE, base), x)
        for w, c in ((0, 0), (40, 200), (80, 200), (80, 600))
    ]
    assert len(traces) == 1
    for a, b in itertools.pairwise(outs):
        assert np.abs(a - b).max() > 1e-5


def test_scaled_noise():
    base = run({"name": "none"}, steps=4, b=2, d=6)
    same = run({"name": "epsilon_scaling"}, steps=4, b=2, d=6)
    np.testing.assert_allclose(same, base, rtol=1e-5, atol=1e-6)
    found = run({"name": "epsilon_scaling", "scale": 1.01, "slope": 1e-5}, steps=4, b=2, d=6)
    x = np.asarray(draw(2, 1.0, 7, 6), np.float64)
    for t, after in ((750, 500), (500, 250), (250, 0), (0, -1)):
        bar, end = BAR[t], BAR[after] if after >= 0 else 1.0
        x0 = np.sqrt(bar) * 0.25 * x / (bar * 0.25 + 1 - bar)
        eps = (x - np.sqrt(bar) * x0) / np.sqrt(1 - bar) / (1.01 + 1e-5 * t)
        x = np.sqrt(end) * (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar) + np.sqrt(1 - end) * eps
    np.testing.assert_allclose(found.reshape(2, 6), x, rtol=1e-3, atol=1e-4)


def test_the_released_grid_drops_its_first_time():
    np.testing.assert_array_equal(
        grid("ts_dpm", 9) - 1, [801, 701, 601, 501, 401, 301, 201, 101, 1, 0]
    )


def test_what_it_cannot_do_is_one_line():
    sampler = {"steps": 4, "shift": {"name": "time_shift", "window": 4, "cutoff": 0}}
    with pytest.raises(UserError, match="the process is RectifiedFlow"):
        tiny.task(sampler=sampler).rows()
    with pytest.raises(UserError, match="a RK45 cannot take each image's own times"):
        TimeShift(window=4, cutoff=0).apply(bound("rk45", TABLE), predictor(None))
    with pytest.raises(UserError, match="where alpha = 0"):
        tiny.task(sampler={"steps": 4, "shift": {"name": "epsilon_scaling"}}).rows()
    for wrong in (
        {"window": -1},
        {"mode": "dpm"},
        {"cutoff_on": "then"},
        {"variance_target": "marginal"},
        {"v0": 0.3},
        {"widest": 2},
    ):
        with pytest.raises(UserError):
            SHIFTS.build({"name": "time_shift", "window": 4, "cutoff": 0, **wrong})
    with pytest.raises(UserError, match="window: this key must be given"):
        SHIFTS.build({"name": "time_shift"})
