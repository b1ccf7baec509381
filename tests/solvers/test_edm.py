"""EDM's sampler against the closed forms of the sheet: data N(0, 0.5^2), exact denoiser."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.arrays import bcast
from genjax.core.errors import UserError
from genjax.core.types import Prediction
from genjax.process.gaussian import EDM, VE, VP, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS, GUIDANCES, sample
from tests.solvers.solver_toys import affine_map, bound, gaussian, keys, moments, predictor, run

STD = 0.5
PUBLISHED = [  # S_churn, S_min, S_max, S_noise, steps
    (30, 0.01, 1, 1.007, 192),
    (80, 0.05, 1, 1.007, 384),
    (40, 0.05, 50, 1.003, 256),
]


def grid(name, process, n, **fields):
    return GRIDS.build({"name": name, **fields}).times(process, n)


def end(process, times, start, **fields):
    """Where the sampler takes x = start, of data N(0, 0.25)."""
    return run(bound("edm", process, **fields), times, gaussian(process, 0.0, STD), [start])[0]


def test_published_noise_levels():
    want = [
        80, 57.585985, 40.785574, 28.374585, 19.352453, 12.910082, 8.4009353, 5.3151945, 3.2568215,
        1.9233398, 1.0881706, 0.58534812, 0.29644228, 0.13951647, 0.059947311, 0.022934518,
        0.0075280200, 0.002, 0,
    ]  # fmt: skip
    np.testing.assert_allclose(grid("karras", EDM(), 18), want, rtol=5e-8)


def test_closed_form():
    process = EDM()
    heun = {18: 0.5276246370, 40: 0.5048768647, 64: 0.5018214283, 128: 0.5004301646}
    euler = {18: 0.4230314364, 40: 0.4648507745, 64: 0.4779342520, 128: 0.4889226127}
    for order, expected in ((2, heun | {256: 0.5000954246}), (1, euler | {256: 0.4944451576})):
        for n, value in expected.items():
            got = end(process, grid("karras", process, n), 80.0, order=order)
            assert got == pytest.approx(value, abs=1e-9), (order, n)


def test_general_sampler_of_the_ablation():
    """Euler with VP's discretisation, schedule and scaling, and with VE's."""
    vp, ve = VP(), EDM(0.02, 100.0)
    for n, value in ((18, 0.48984165), (40, 0.49477042)):
        for times in (grid("vp", vp, n), grid("uniform", vp, n, last=1e-3)):
            got = end(vp, times, vp.sigma(1.0), order=1, space="t")
            assert got == pytest.approx(value, abs=1e-7)
    for n, value in ((18, 1.59047996), (40, 0.84104850)):
        for process in (ve, VE(0.02, 100.0)):
            times = grid("karras", process, n, rho=1e9, sigma_min=0.02, sigma_max=100.0)
            got = end(process, times, 100.0, order=1, space="variance")
            assert got == pytest.approx(value, abs=1e-7)


def test_vp_schedule_is_song_s_probability_flow_by_euler():
    """x' = x - h (f x - g^2 score/2) on a consistent grid."""
    process, times = VP(), np.linspace(1, 0.05, 12)
    denoise = gaussian(process, 0.3, STD)
    x = np.array([[0.7]])
    for t, t_next in pairwise(times):
        score = process.score(x, t, np.asarray(denoise(x, t)))
        slope = process.drift(t) * x - process.diffusion2(t) * score / 2
        x = x + (t_next - t) * slope
    got = run(bound("edm", process, order=1, space="t"), times, denoise, [0.7])[0]
    assert got == pytest.approx(x[0, 0], rel=2e-6)


def test_ve_schedule_is_reverse_diffusion_s_probability_flow():
    """x' = x + (sigma_i^2 - sigma_{i-1}^2)/2 score, sigma doubled from [0, 1] to [-1, 1]."""
    process = VE(0.02, 100.0)
    times = np.linspace(1, 0.4, 9)
    denoise = gaussian(process, 0.1, STD)
    x = np.array([[31.0]])
    for t, t_next in pairwise(times):
        step = (2 * VE().sigma(t)) ** 2 - (2 * VE().sigma(t_next)) ** 2
        x = x + step / 2 * process.score(x, t, np.asarray(denoise(x, t)))
    got = run(bound("edm", process, order=1, space="variance"), times, denoise, [31.0])[0]
    assert got == pytest.approx(x[0, 0], rel=1e-6)


def test_general_form_with_the_linear_schedule_is_the_plain_one_bit_for_bit():
    process = EDM()
    times = grid("karras", process, 18)
    churn = {"S_churn": 20.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
    for fields in ({}, churn):
        plain = bound("edm", process, **fields).rows(times)
        general = bound("edm", process, space="t", **fields).rows(times)
        assert plain.keys() == general.keys()
        for name in plain:
            np.testing.assert_array_equal(plain[name], general[name], name)
    heun = bound("heun", process, space="lam").rows(times)
    plain = bound("edm", process).rows(times)
    x = jnp.asarray(80 * np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    predict = predictor(gaussian(process, 0.2, STD))
    out = [
        np.asarray(sample(bound(name, process), predict, rows, x, keys(4)))
        for name, rows in (("edm", plain), ("heun", heun))
    ]
    np.testing.assert_array_equal(*out)


@pytest.mark.parametrize("alpha", [1.0, 2 / 3, 0.5, 1.1])
@pytest.mark.parametrize("space", ["lam", "t", "variance"])
def test_every_member_of_the_family_has_second_order(alpha, space):
    process = VP()
    high, low = 0.9, 0.2
    exact = np.sqrt(
        ((process.alpha(low) * STD) ** 2 + process.sigma(low) ** 2)
        / ((process.alpha(high) * STD) ** 2 + process.sigma(high) ** 2)
    )
    solver = bound("edm", process, alpha=alpha, space=space)
    # the last step is Euler's: one more, of no length, leaves the order to the others
    errors = [
        affine_map(
            solver, np.append(np.linspace(high, low, n + 1), low), gaussian(process, 0.5, STD)
        )[1]
        - exact
        for n in (160, 320)
    ]
    # 4 at least; the midpoint rule in lam gains an order on Gaussian data
    assert 3.6 < errors[0] / errors[1] < 8.5, (alpha, space, errors)


def test_last_step_is_eulers_and_nfe_is_counted():
    process = EDM()
    times, calls = grid("karras", process, 5), []
    for fields, want in (({}, 9), ({"alpha": 0.5}, 9), ({"order": 1}, 5), ({"S_churn": 3.0}, 9)):
        calls.clear()

        def predict(x, row, memory):
            jax.debug.callback(lambda t: calls.append(float(t)), row["t"])
            return Prediction(0.2 * x), memory

        solver = bound("edm", process, **fields)
        x = jnp.full((2, 1), 80.0)
        out = sample(solver, predict, solver.rows(times), x, keys(2))
        jax.effects_barrier()
        assert len(calls) == solver.nfe(5) == want
        rows = solver.rows(times)
        seen = rows.get("t_hat", rows["t"])
        np.testing.assert_allclose([calls[0], calls[-1]], [seen[0], seen[-1]], rtol=1e-6)
        assert np.all(np.isfinite(out))
        assert rows["a"][-1] == pytest.approx(0, abs=1e-15)  # to D itself
        assert rows["c"][-1] == pytest.approx(1)


def test_the_end_of_a_grid_is_the_data_also_on_ve():
    """VE's own sigma(0) is sigma_min; Heun on its network ends where it does on sigma = t."""
    ve, edm = VE(0.02, 100.0), EDM(0.02, 100.0)
    for fields in ({}, {"order": 1}, {"alpha": 0.5}, {"space": "variance"}):
        results = [
            end(p, grid("karras", p, 12, sigma_min=0.02), 100.0, **fields) for p in (ve, edm)
        ]
        assert results[0] == pytest.approx(results[1], rel=1e-9), fields
    # a grid that ends above 0 stays there
    times = np.array([1.0, 0.5, 0.1])
    assert bound("edm", ve).rows(times)["a"][-1] == pytest.approx(ve.sigma(0.1) / ve.sigma(0.5))


def test_churned_levels():
    process = EDM()
    times = grid("karras", process, 256)
    rows = bound("edm", process, S_churn=40.0, S_min=0.05, S_max=50.0, S_noise=1.003).rows(times)
    inside = (times[:-1] >= 0.05) & (times[:-1] <= 50)
    assert 0 < inside.sum() < 256
    ratio = rows["t_hat"] / times[:-1]
    np.testing.assert_allclose(ratio[inside], 1.15625, rtol=1e-12)
    np.testing.assert_array_equal(ratio[~inside], 1)
    np.testing.assert_array_equal(rows["s"][~inside], 0)
    added = np.sqrt(1.15625**2 - 1) * times[:-1]
    np.testing.assert_allclose(rows["s"][inside], 1.003 * added[inside], rtol=1e-12)
    # the cap: at most twice the variance
    capped = bound("edm", process, S_churn=1e4).rows(times)
    np.testing.assert_array_equal(capped["t"], times[:-1])  # where x lies, and where it starts
    np.testing.assert_allclose(capped["t_hat"], np.sqrt(2) * times[:-1], rtol=1e-12)
    np.testing.assert_allclose(capped["s"], times[:-1], rtol=1e-12)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=lambda p: type(p).__name__)
def test_churn_on_any_process_is_edms_seen_through_x_over_alpha(process):
    edm = EDM()
    levels = np.append(np.geomspace(20, 0.05, 9), 0.0)
    fields = {"S_churn": 3.0, "S_min": 0.1, "S_max": 10.0, "S_noise": 1.01}
    want = bound("edm", edm, **fields).rows(levels)
    times = process.t_of_lam(levels)
    got = bound("edm", process, **fields).rows(times)
    alpha, alpha_hat = process.alpha(times[:-1]), process.alpha(got["t_hat"])
    np.testing.assert_allclose(process.lam(got["t_hat"]), want["t_hat"], rtol=1e-9)
    np.testing.assert_allclose(got["s"] / alpha_hat, want["s"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got["up"] * alpha, alpha_hat, rtol=1e-12)


def test_guidance_weighs_at_the_churned_level():
    process, guidance = EDM(), GUIDANCES.build({"name": "cfg", "weight": 3.0, "interval": (1, 5)})
    solver = bound("edm", process, S_churn=1.0)  # levels times 1.25
    rows = guidance.rows(process, solver.rows(np.array([6.0, 4.5, 2.0, 0.9, 0.0])))
    seen, plain = [], predictor(gaussian(process, 0.0, STD))

    def predict(x, row, memory):
        jax.debug.callback(lambda *a: seen.append(a), row["t"], row["w"], ordered=True)
        return plain(x, row, memory)

    sample(solver, predict, rows, jnp.ones((1, 1)), keys(1))
    jax.effects_barrier()
    t, w = np.array(seen, np.float64).T
    np.testing.assert_allclose(t, [7.5, 4.5, 5.625, 2, 2.5, 0.9, 1.125], rtol=1e-6)
    np.testing.assert_array_equal(w, [1, 3, 1, 3, 3, 1, 3])


@pytest.mark.parametrize("published", PUBLISHED)
def test_variance_is_stationary_under_churn(monkeypatch, published):
    """Variance s^2 + t^2 after each step, up to O(h^2), without S_noise's excess."""
    churn, low, high, _, n = published
    process, t_end = EDM(), 0.02
    times = grid("karras", process, n, sigma_min=t_end)[:-1]  # the last Euler step left out
    solver = bound("edm", process, S_churn=float(churn), S_min=low, S_max=float(high))
    denoise = gaussian(process, 0.0, STD)
    start = STD**2 + 80.0**2
    _, variance = moments(monkeypatch, solver, times, denoise, 0.0, start)
    assert variance == pytest.approx(STD**2 + t_end**2, rel=2e-2 * (256 / n) ** 2)
    _, plain = moments(monkeypatch, bound("edm", process), times, denoise, 0.0, start)
    assert abs(variance - plain) > 1e-6  # churn did something


def test_noise_factor_raises_the_variance(monkeypatch):
    process = EDM()
    times = grid("karras", process, 64)
    variances = [
        moments(
            monkeypatch,
            bound("edm", process, S_churn=20.0, S_noise=noise),
            times,
            gaussian(process, 0.0, STD),
            0.0,
            STD**2 + 80.0**2,
        )[1]
        for noise in (1.0, 1.007)
    ]
    assert 1.001 < variances[1] / variances[0] < 1.2


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_an_empirical_denoiser_returns_training_points(churn):
    process = EDM()
    points = np.random.default_rng(1).uniform(-1, 1, (5, 6)).astype(np.float32)

    def denoise(x, t):
        near = -jnp.sum((x[:, None] - points) ** 2, -1) / (2 * bcast(t, x) ** 2)
        return jax.nn.softmax(near, axis=-1) @ points

    solver = bound("edm", process, S_churn=churn)
    x = 80 * jax.random.normal(jax.random.key(0), (64, 6))
    rows = solver.rows(grid("karras", process, 18))
    out = np.asarray(sample(solver, predictor(denoise), rows, x, keys(64)))
    distance = np.abs(out[:, None] - points).max(-1)
    assert distance.min(1).max() < 1e-5
    assert len(set(distance.argmin(1))) == 5  # and every one of them


def test_float32_loses_only_last_digits():
    """No x - D is formed: float32 states end as float64 ones do, at any number of steps."""
    process = EDM()
    denoise = gaussian(process, 0.0, STD)
    for n in (18, 256):
        solver, times = bound("edm", process), grid("karras", process, n)
        x = jnp.asarray(80 * np.linspace(-2, 2, 41)[:, None], jnp.float32)
        single = np.asarray(sample(solver, predictor(denoise), solver.rows(times), x, keys(41)))
        exact = run(solver, times, denoise, np.asarray(x, np.float64)[:, 0])
        assert np.abs(single[:, 0] - exact).max() < (2e-6 if n == 18 else 6e-6)


def test_snapped_times_are_the_tables():
    table = Table("cosine")
    times = grid("karras", table, 18, sigma_min=0.002, sigma_max=80.0)
    rows = bound("edm", table, S_churn=8.0, S_max=50.0, snap=True).rows(times)
    for name in ("t", "t_hat", "t_next"):
        np.testing.assert_array_equal(rows[name], np.round(rows[name]))
    assert rows["t_next"][-1] == 0 and np.all(rows["t"] >= 1)
    assert np.all(rows["t_hat"] >= rows["t"]) and np.any(rows["t_hat"] > rows["t"])
    assert np.all(rows["s"] >= 0)
    with pytest.raises(UserError, match=r"solver\.snap: only a table"):
        bound("edm", EDM(), snap=True).rows(np.array([1.0, 0.0]))


def test_churn_needs_a_grid_and_lam_a_start_with_data_in_it():
    with pytest.raises(UserError, match=r"S_churn: needs to know the number of steps"):
        bound("edm", EDM(), S_churn=1.0).row(jnp.ones(2), jnp.zeros(2))
    with pytest.raises(UserError, match="no finite coefficient"):
        bound("edm", RectifiedFlow()).rows(np.linspace(1, 0, 5))
    # in t a flow may start there
    assert np.all(
        np.isfinite(bound("edm", RectifiedFlow(), space="t").rows(np.linspace(1, 0, 5))["a"])
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"S_churn": -1.0}, "S_churn must be >= 0"),
        ({"S_min": 2.0, "S_max": 1.0}, "0 <= S_min <= S_max"),
        ({"order": 3}, "order must be 1 or 2"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"space": "sigma"}, "space must be one of"),
    ],
)
def test_wrong_fields(fields, text):
    with pytest.raises(UserError, match=text):
        bound("edm", EDM(), **fields)


def test_vp_discretisation_resolves_the_betas_for_other_bounds():
    grids = GRIDS.build({"name": "vp"})
    assert grids.solved().beta_min == pytest.approx(0.1, rel=1e-9)
    assert grids.solved().beta_max == pytest.approx(20, rel=1e-9)
    edm = EDM()
    np.testing.assert_allclose(
        grid("vp", edm, 7)[:-1], VP().lam(np.linspace(1, 1e-3, 7)), rtol=1e-9
    )
    times = grid("vp", edm, 9, sigma_min=0.02, sigma_max=80.0)
    assert times[0] == pytest.approx(80) and times[-2] == pytest.approx(0.02) and times[-1] == 0
    # the sheet's formulas
    bd = 2 * (np.log(0.02**2 + 1) / 1e-3 - np.log(80**2 + 1)) / (1e-3 - 1)
    bmin = np.log(80**2 + 1) - bd / 2
    t = 1 + np.arange(9) / 8 * (1e-3 - 1)
    np.testing.assert_allclose(times[:-1], np.sqrt(np.expm1(bd * t**2 / 2 + bmin * t)), rtol=1e-9)


def test_iddpm_discretisation():
    u = Table("cosine").lam(np.arange(1000, 0, -1.0))
    times = grid("iddpm", EDM(), 256)
    j = np.floor(8 + 991 * np.arange(256) / 255 + 0.5).astype(int)
    np.testing.assert_allclose(times, np.append(u[j], 0.0), rtol=1e-12)
    assert times[0] == pytest.approx(80.2037, rel=1e-6) and times[-2] == pytest.approx(0.006425413)
    on_table = grid("iddpm", Table("cosine"), 40)
    np.testing.assert_array_equal(on_table, np.round(on_table))
    assert on_table[0] == 992 and on_table[-2] == 1 and on_table[-1] == 0
    legacy = grid("iddpm", EDM(), 10, sigma_max=80.0)
    assert legacy[0] == pytest.approx(71.2912, rel=1e-6)  # u_8 = 80.2 is above the bound
    with pytest.raises(UserError, match="more than the grid's 992 levels"):
        grid("iddpm", EDM(), 1001)
