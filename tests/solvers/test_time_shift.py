"""Time-Shift: selection, its known biases, the sign of either mode, and its limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import PROCESSES
from genjax.solvers import GRIDS, sample, solve
from genjax.solvers.deis import DEIS
from genjax.solvers.guidance_rules import CFGpp
from genjax.solvers.shifted import nearest, pixel_variance
from genjax.solvers.time_shift import SHIFTS, TimeShift, histogram
from tests.solvers.solver_toys import bound, gaussian, keys, predictor
from tests.tasks import tiny

TABLE = PROCESSES.build({"name": "table", "betas": "linear", "n": 1000})
D = 3072
BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def chosen(x, centre, **fields):
    """Returns the indices that images x take in the second step, which starts at `centre`."""
    solver = bound("ddim", TABLE)
    rows = TimeShift(cutoff=0, **fields).rows(solver, solver.rows(np.array([1000, centre + 1, 1])))
    variance, time = (jnp.asarray(rows["shift"][k][1], jnp.float32) for k in ("variance", "time"))
    return np.asarray(time)[jax.jit(nearest)(pixel_variance(x), variance)].astype(int) - 1


def draw(b, variance, seed=0, d=D):
    """Returns [b, d] of N(0, variance)."""
    z = np.random.default_rng(seed).standard_normal((b, d), dtype=np.float32)
    return jnp.asarray(z * np.sqrt(variance), jnp.float32)


def grid(name, n, **fields):
    return GRIDS.build({"name": name, **fields}).times(TABLE, n)


def run(shift, solver="ddim", steps=20, b=64, d=D, times=None, process=TABLE, **fields):
    """Returns samples of Gaussian data N(0, 0.25) with the exact denoiser."""
    return np.asarray(solved(shift, solver, steps, b, d, times, process, **fields)[0])


def solved(shift, solver="ddim", steps=20, b=64, d=D, times=None, process=TABLE, **fields):
    """Returns the samples, the chosen times [b, n] (None without) and the rows."""
    solver, shift = bound(solver, process, **fields), SHIFTS.build(shift)
    times = grid("leading", steps) if times is None else times
    rows = shift.rows(solver, solver.rows(times))
    predict = predictor(gaussian(process, 0.0, 0.5))
    made, predict = shift.apply(solver, predict, len(rows["t"]))
    x = draw(b, 1.0, 7, d).reshape(b, d, 1, 1)

    @jax.jit
    def draws(rows, x):
        state = solve(made, predict, rows, x, keys(b))
        return made.output(state), made.measures(state).get("shifted_times")

    return *draws(rows, x), rows


def test_a_sample_of_known_variance_finds_its_time():
    z = np.random.default_rng(0).standard_normal((41, D))
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True, ddof=1)
    wanted = np.arange(480, 521)
    x = jnp.asarray(np.sqrt(1 - BAR[wanted])[:, None] * z, jnp.float32)
    np.testing.assert_array_equal(chosen(x, 500, window=40), wanted)
    narrow = chosen(x, 500, window=11, widest=40)
    np.testing.assert_array_equal(narrow, np.clip(wanted, 495, 505))
    np.testing.assert_array_equal(chosen(x, 500, window=1, widest=40), 500)


def test_at_high_noise_the_choice_is_a_coin_toss_between_the_windows_ends():
    n = 10000
    for centre, share, wide in ((900, 0.5, 0.02), (300, 0.0, 0.01)):
        found = chosen(draw(n, 1 - BAR[centre]), centre, window=40)
        for end in (centre - 20, centre + 20):
            assert np.mean(found == end) == pytest.approx(share, abs=wide)


def test_measured_a_step_too_early_the_choice_is_the_top():
    np.testing.assert_array_equal(chosen(draw(500, 1 - BAR[501]), 401, window=40), 421)


@pytest.mark.parametrize(("centre", "shift"), [(300, 0.1), (200, 0.03), (500, 1.4)])
def test_the_datas_own_variance_can_be_counted(centre, shift):
    n, v0 = 4000, 0.25
    x = draw(n, BAR[centre] * v0 + 1 - BAR[centre])
    found = chosen(x, centre, window=80, variance_target="marginal", v0=v0) - centre
    assert np.mean(found) == pytest.approx(shift, abs=0.5)
    plain = chosen(x, centre, window=80) - centre
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
    base = run({"name": "none"}, solver, steps=6, b=3, d=12, **fields)
    solver = bound(solver, TABLE, **fields)
    given = solver.rows(grid("leading", 6))
    predict = predictor(gaussian(TABLE, 0.0, 0.5))
    x = draw(3, 1.0, 7, 12).reshape(3, 12, 1, 1)

    def shift(window, cutoff, widest=0):
        return TimeShift(window=window, cutoff=cutoff, mode=mode, widest=widest)

    made = shift(40, 200, 40).apply(solver, predict, 6)[0]

    @jax.jit
    def draws(rows):
        state = solve(made, predict, rows, x, keys(3))
        return state.x, made.measures(state)

    for window, cutoff in ((0, 0), (40, 1000)):
        assert shift(window, cutoff).apply(solver, predict, 6) == (solver, predict)
        # As values of the rows: the same numbers in another program, which may round otherwise.
        rows = shift(window, cutoff, 40).rows(solver, given)
        for name, own in rows["shift"].get("own", {}).items():
            np.testing.assert_array_equal(own, np.broadcast_to(given[name][:, None], own.shape))
        found, measured = draws(rows)
        np.testing.assert_allclose(found, base, rtol=1e-5, atol=1e-6)
        centres = np.broadcast_to(rows["shift"]["centre"], (3, 6))
        np.testing.assert_array_equal(measured["shifted_times"], centres)
    moved, _ = draws(shift(40, 200, 40).rows(solver, given))
    assert np.abs(moved - base).max() > 1e-4 and np.isfinite(moved).all()


@pytest.mark.parametrize(
    ("solver", "fields", "first", "last"),
    [
        ("ddim", {}, 800, 300),
        ("ddim", {"cutoff_on": "next"}, 800, 400),
        ("ddim", {"mode": "ts_dpm"}, 800, 500),
        ("pndm", {"mode": "ts_dpm"}, 800, 500),
        ("dpm_solver_multistep", {"mode": "ts_dpm"}, 800, 500),
        ("deis", {"mode": "ts_dpm"}, 900, 400),
        ("ddim", {"mode": "ts_adm"}, 800, 400),
    ],
)
def test_the_steps_that_may_shift(solver, fields, first, last):
    """At cutoff 300, from 900, 800, ... 0: the starts of the first and the last step that may."""
    solver = bound(solver, TABLE)
    shift = TimeShift(window=20, cutoff=300, **fields)
    rows = shift.rows(solver, solver.rows(grid("leading", 10)))
    t = rows["t"] - 1
    reach = 20 if isinstance(solver, DEIS) else 10  # DEIS: a whole window to each side
    np.testing.assert_array_equal(
        rows["shift"]["half"], np.where((t <= first) & (t >= last), reach, 0)
    )


@pytest.mark.parametrize("solver", ["ddim", "pndm", "dpm_solver_multistep"])
@pytest.mark.parametrize("mode", ["paper", "ts_dpm"])
def test_windows_are_values_of_the_rows(solver, mode):
    solver = bound(solver, TABLE)
    base = solver.rows(grid("leading", 8))
    traces = []

    def shift(window, cutoff):
        return TimeShift(window=window, cutoff=cutoff, widest=80, mode=mode)

    def fn(rows, x):
        traces.append(1)
        predict = predictor(gaussian(TABLE, 0.0, 0.5))
        made, predict = shift(0, 0).apply(solver, predict, 8)
        return sample(made, predict, rows, x, keys(3))

    fn, x = jax.jit(fn), draw(3, 1.0, d=12).reshape(3, 12, 1, 1)
    pairs = ((0, 0), (40, 200), (80, 200), (80, 600))
    outs = [fn(shift(w, c).rows(solver, base), x) for w, c in pairs]
    assert len(traces) == 1
    for a, b in itertools.pairwise(outs):
        assert np.abs(a - b).max() > 1e-5
    one = sample(*TimeShift(window=40, cutoff=200, mode=mode).apply(  # its own width: the same
        solver, predictor(gaussian(TABLE, 0.0, 0.5)), 8
    ), TimeShift(window=40, cutoff=200, mode=mode).rows(solver, base), x, keys(3))  # fmt: skip
    np.testing.assert_allclose(outs[1], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "pndm", "dpmpp_2m"])
def test_an_image_shifts_by_itself(solver):
    shift = {"name": "time_shift", "window": 60, "cutoff": 100}
    both = run(shift, solver, steps=5, b=3, d=48)
    np.testing.assert_allclose(run(shift, solver, steps=5, b=1, d=48)[0], both[0], atol=1e-6)


def test_chosen_times_are_kept_and_counted():
    """On exact Gaussians: near the top at high noise as at the bottom, and no shift at the end."""
    shift = {"name": "time_shift", "window": 20, "cutoff": 300}
    _, times, rows = solved(shift, steps=10, b=200)
    assert times.shape == (200, 10)
    np.testing.assert_array_equal(times[:, 0], 901)
    np.testing.assert_array_equal(times[:, 7:], np.broadcast_to([201, 101, 1], (200, 3)))
    steps = histogram(TABLE, rows, times)
    assert [s["nominal"] for s in steps] == list(rows["t"])
    assert steps[0] == {"nominal": 901, "shifts": {0: 1.0}, "mean": 0, "bottom": 0, "top": 0}
    for i in range(1, 7):
        moved = np.asarray(times[:, i]) - rows["t"][i]
        assert steps[i]["bottom"] == np.mean(moved == -10)
        assert steps[i]["top"] == np.mean(moved == 10)
        assert steps[i]["mean"] == pytest.approx(np.mean(moved), abs=1e-5)
        assert sum(steps[i]["shifts"].values()) == pytest.approx(1)
    assert 0.3 < steps[1]["top"] < 0.7 and 0.3 < steps[1]["bottom"] < 0.7


def test_the_adm_rule_lands_where_its_code_does():
    """Five steps, window 0: from 800 to 800 - 1000 // 4 - 1 = 549, not 600."""
    cosine = PROCESSES.build({"name": "table", "betas": "cosine", "n": 1000})
    solver = bound("ddim", cosine)
    times = np.array([999.0, 800, 600, 400, 200, 0]) + 1
    shift = TimeShift(window=0, cutoff=300, mode="ts_adm")
    rows = shift.rows(solver, solver.rows(times))
    ends = rows["shift"]["own"]["t_next"][:, 0] - 1
    np.testing.assert_array_equal(ends, [800, 549, 349, 149, 0])
    wide = TimeShift(window=80, cutoff=300, mode="ts_adm").rows(solver, solver.rows(times))
    np.testing.assert_array_equal(wide["shift"]["own"]["t_next"][1] - 1, np.arange(509, 590))
    # what is compared is abar read backwards, near 1 - abar for the cosine only
    level = cosine.nodes.abar[1:]
    np.testing.assert_allclose(wide["shift"]["variance"][1], level[999 - np.arange(760, 841)])
    assert np.max(np.abs(level[::-1] - (1 - level))) == pytest.approx(0.0139, abs=1e-4)
    assert np.max(np.abs(BAR[::-1] - (1 - BAR))) == pytest.approx(0.844, abs=1e-3)


def test_literal_centres_are_of_unit_strides():
    solver = bound("ddim", TABLE)
    unit = solver.rows(np.arange(700.0, 600, -1))
    shift = TimeShift(window=4, cutoff=0, window_center="literal")
    rows = shift.rows(solver, unit)["shift"]
    np.testing.assert_array_equal(rows["time"][5], unit["t"][4] + np.arange(-2, 3))
    with pytest.raises(UserError, match="strides up to 100"):
        shift.rows(solver, solver.rows(grid("leading", 10)))


def test_a_continuous_vp_process_counts_in_thousandths():
    vp = PROCESSES.build({"name": "vp"})
    solver = bound("dpm_solver_multistep", vp)
    base = solver.rows(np.linspace(1, 1e-3, 6))
    rows = TimeShift(window=4, cutoff=300).rows(solver, base)["shift"]
    np.testing.assert_allclose(rows["time"][1], base["t"][1] + np.arange(-2, 3) / 1000)
    np.testing.assert_array_equal(rows["half"], [0, 2, 2, 2, 2])
    found = run(
        {"name": "time_shift", "window": 40, "cutoff": 300}, "dpm_solver_multistep",
        times=np.linspace(1, 1e-3, 6), process=vp, b=3, d=48,
    )  # fmt: skip
    assert np.isfinite(found).all()


def test_noise_put_back_follows_a_moved_end():
    """CFG++ under a released rule: alpha at the chosen end, not at the nominal one."""
    solver = bound("ddim", TABLE)
    rows = CFGpp(weight=0.5).rows(TABLE, solver.rows(grid("leading", 5)))
    rows = TimeShift(window=4, cutoff=100, mode="ts_dpm").rows(solver, rows)
    own = rows["shift"]["own"]
    np.testing.assert_allclose(own["alpha_next"], TABLE.alpha(own["t_next"]), rtol=1e-12)
    assert np.ptp(own["alpha_next"][1]) > 0 and np.ptp(own["alpha_next"][0]) == 0


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


def test_renormalised_images_have_the_schedules_deviation():
    x = run(
        {"name": "epsilon_scaling", "renormalise": True}, times=np.array([900.0, 500]), b=3, d=9
    )
    z = np.asarray(draw(3, 1.0, 7, 9), np.float64)
    a, end = BAR[899], BAR[499]
    z *= np.sqrt(1 - a) / z.std(1, ddof=1, keepdims=True)
    x0 = np.sqrt(a) * 0.25 * z / (a * 0.25 + 1 - a)
    want = np.sqrt(end) * x0 + np.sqrt(1 - end) * (z - np.sqrt(a) * x0) / np.sqrt(1 - a)
    np.testing.assert_allclose(x.reshape(3, 9), want, rtol=1e-4, atol=1e-5)


def test_the_released_grid_drops_its_first_time():
    np.testing.assert_array_equal(
        grid("ts_dpm", 9) - 1, [801, 701, 601, 501, 401, 301, 201, 101, 1, 0]
    )


def test_what_it_cannot_do_is_one_line():
    sampler = {"steps": 4, "shift": {"name": "time_shift", "window": 4, "cutoff": 0}}
    with pytest.raises(UserError, match="the process is RectifiedFlow"):
        tiny.task(sampler=sampler).rows()
    for solver, mode in (
        ("rk45", "paper"),
        ("heun", "paper"),
        ("unipc", "paper"),
        ("euler_ancestral", "ts_dpm"),
        ("lms", "ts_dpm"),
        ("pndm", "ts_adm"),
    ):
        with pytest.raises(UserError, match="cannot take each image's own times in mode"):
            TimeShift(window=4, cutoff=0, mode=mode).check(bound(solver, TABLE))
    for name in ("subvp", "ve", "edm"):
        with pytest.raises(UserError, match="variance-preserving"):
            TimeShift(window=4, cutoff=0).check(bound("ddim", PROCESSES.build({"name": name})))
    with pytest.raises(UserError, match="backwards"):
        vp = bound("ddim", PROCESSES.build({"name": "vp"}))
        TimeShift(window=4, cutoff=0, mode="ts_adm").check(vp)
    with pytest.raises(UserError, match="where alpha = 0"):
        tiny.task(sampler={"steps": 4, "shift": {"name": "epsilon_scaling"}}).rows()
    for wrong in (
        {"window": -1},
        {"cutoff": -1},
        {"mode": "dpm"},
        {"cutoff_on": "then"},
        {"cutoff_on": "next", "mode": "ts_dpm"},
        {"window_center": "mine"},
        {"variance_target": "marginal"},
        {"variance_target": "marginal", "v0": 1.0},
        {"variance_target": "marginal", "v0": 0.3, "mode": "ts_adm"},
        {"v0": 0.3},
        {"widest": 2},
    ):
        with pytest.raises(UserError):
            SHIFTS.build({"name": "time_shift", "window": 4, "cutoff": 0, **wrong})
    for given in ({"window": 4}, {"cutoff": 300}):
        with pytest.raises(UserError, match="this key must be given"):
            SHIFTS.build({"name": "time_shift", **given})
