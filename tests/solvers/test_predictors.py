"""The predictors' rows against the closed forms of linear recursions on Gaussian data."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from genjax.process.table import Table
from genjax.solvers import GRIDS
from tests.solvers.solver_toys import affine_map, bound, gaussian, moments

PROCESSES = {"ve": VE(), "vp": VP(), "subvp": SubVP()}
DATA_STD = {"ve": 0.25, "vp": 0.5, "subvp": 0.5}


def predictor_only(name, process, **fields):
    return bound("pc", process, predictor={"name": name}, corrector={"name": "none"}, **fields)


def grid(process, n, name="score_sde", **fields):
    return GRIDS.build({"name": name, **fields}).times(process, n)


def variances(solver, times, std):
    """Returns the variance of x and of its denoised mean after all rows, from the prior's."""
    rows = solver.rows(times)
    alpha, sigma = rows["alpha"], rows["std"]
    gain = rows["a"] + rows["c"] * alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    variance = mean = float(solver.process.start_std(times[0])) ** 2
    for g, s in zip(gain, rows["s"], strict=True):
        mean = g**2 * variance
        variance = mean + s**2
    return variance, mean


# (process, predictor, N, variance of x, variance of the mean): the published code on N(0, std^2)
LEGACY = [
    ("ve", "reverse_diffusion", 1000, 0.06304213, 0.06294213),
    ("ve", "ancestral", 1000, 0.06187800, 0.06187800),
    ("ve", "probability_flow", 1000, 0.06513894, 0.06513894),
    ("ve", "euler_maruyama", 1000, 0.06266224, 0.06266054),
    ("vp", "euler_maruyama", 1000, 0.25035265, 0.25023275),
    ("vp", "reverse_diffusion", 1000, 0.25199064, 0.25189064),
    ("vp", "ancestral", 1000, 0.25135989, 0.25125989),
    ("vp", "probability_flow", 1000, 0.26069111, 0.26069111),
    ("vp", "euler_maruyama", 100, 0.25420579, 0.25300679),
    ("subvp", "euler_maruyama", 1000, 0.25039841, 0.25039838),
]


@pytest.mark.parametrize(("kind", "name", "n", "last", "mean"), LEGACY)
def test_legacy_variances_are_those_of_the_published_code(kind, name, n, last, mean):
    process = PROCESSES[kind]
    solver = predictor_only(name, process, discretisation="legacy")
    found = variances(solver, grid(process, n), DATA_STD[kind])
    np.testing.assert_allclose(found, (last, mean), rtol=0, atol=1.1e-8)


def test_the_steps_taken_are_the_rows(monkeypatch):
    """The same recursion, but through the code of the step (probed by x and by noise)."""
    pairs = [("ve", "reverse_diffusion"), ("vp", "ancestral"), ("subvp", "euler_maruyama")]
    for kind, name in pairs:
        process = PROCESSES[kind]
        solver = predictor_only(name, process, discretisation="legacy")
        times = grid(process, 1000)
        toy = gaussian(process, 0.0, DATA_STD[kind])
        _, variance = moments(monkeypatch, solver, times, toy, 0.0, process.prior_std**2)
        want, _ = variances(solver, times, DATA_STD[kind])
        assert variance == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "probability_flow"])
def test_consistent_steps_leave_an_error_of_order_one_over_n(kind, name):
    process, std = PROCESSES[kind], DATA_STD[kind]
    final = 0.1  # above the end's jump, where the exact marginal is known
    want = (process.alpha(final) * std) ** 2 + process.sigma(final) ** 2
    off = []
    for n in (4000, 8000):
        solver = predictor_only(name, process)
        off.append(variances(solver, grid(process, n, "uniform", end=final), std)[0] / want - 1)
    assert abs(off[0]) < 0.015
    assert off[0] / off[1] == pytest.approx(2, rel=0.05)


def test_vp_reverse_diffusion_tends_to_ancestral_as_n_grows():
    off = []
    for n in (250, 500, 1000):
        pair = [
            variances(predictor_only(name, VP(), discretisation=how), grid(VP(), n), 0.5)[0]
            for how in ("consistent", "legacy")
            for name in ("reverse_diffusion", "ancestral")
        ]
        off.append((pair[0] - pair[1], pair[2] - pair[3]))
    ratios = np.array(off)[:-1] / np.array(off)[1:]
    np.testing.assert_allclose(ratios, 2, atol=0.25)


def test_published_tables_step_by_step():
    n = 1000
    rows = predictor_only("ancestral", VE(), discretisation="legacy").rows(grid(VE(), n))
    i = n - 1
    level = 0.01 * 5000 ** (np.arange(n) / i)
    assert level[1] / level[0] == pytest.approx(1.0085621664, rel=1e-10)
    below = np.concatenate([[0.0], level[:-1]])
    want = below * np.sqrt(level**2 - below**2) / level
    np.testing.assert_allclose(rows["s"], want[::-1], rtol=1e-10)
    assert rows["s"][-1] == 0

    beta = np.linspace(0.1 / n, 20 / n, n)[::-1]
    rows = predictor_only("reverse_diffusion", VP(), discretisation="legacy").rows(grid(VP(), n))
    np.testing.assert_allclose(rows["s"] ** 2, beta, rtol=1e-12)
    # x and score apart: D = 0 is score = -x/sigma^2
    np.testing.assert_allclose(rows["a"] + beta / rows["std"] ** 2, 2 - np.sqrt(1 - beta))
    assert rows["s"][0] ** 2 == pytest.approx(0.02) and rows["s"][-1] ** 2 == pytest.approx(1e-4)

    rows = predictor_only("reverse_diffusion", SubVP(), discretisation="legacy").rows(
        grid(SubVP(), n)
    )
    euler = predictor_only("euler_maruyama", SubVP(), discretisation="legacy").rows(
        grid(SubVP(), n)
    )
    for key in ("a", "c", "s"):  # sub-VP's forward discretisation is Euler's
        np.testing.assert_allclose(rows[key], euler[key], rtol=1e-12)


def test_a_table_is_the_published_discrete_chain():
    """On DDPM's betas the consistent steps are beta_i themselves, and ancestral is DDPM, large."""
    table, n = Table(), 1000
    times = grid(table, n, "trailing")
    np.testing.assert_array_equal(times, grid(table, n))  # linspace(N, 1, N), then 0
    beta = table.beta_values()[::-1]
    rows = predictor_only("ancestral", table).rows(times)
    np.testing.assert_allclose(rows["s"], np.sqrt(beta), rtol=1e-9)
    # x' = (x - beta/sigma eps)/sqrt(1 - beta), eps = (x - alpha D)/sigma
    variance = rows["std"] ** 2
    np.testing.assert_allclose(rows["a"], (1 - beta / variance) / np.sqrt(1 - beta), atol=1e-9)
    np.testing.assert_allclose(
        rows["c"], beta / variance * rows["alpha"] / np.sqrt(1 - beta), rtol=1e-9
    )
    ddpm = bound("ddpm", table, variance="large").rows(times)
    np.testing.assert_allclose(rows["a"], ddpm["a"], atol=1e-9)
    np.testing.assert_allclose(rows["c"], ddpm["c"], rtol=1e-9)
    published = predictor_only("ancestral", table, discretisation="legacy").rows(times)
    for key in rows:
        np.testing.assert_allclose(published[key], rows[key], rtol=1e-9, atol=1e-12, err_msg=key)


def test_smld_levels_are_the_same_in_both_discretisations():
    """eps = 0: the grid's times are i/(N-1), whose levels are the table's; both end at 0."""
    times = grid(VE(), 50, eps=0.0)
    for name in ("ancestral", "reverse_diffusion", "probability_flow"):
        a, b = (
            predictor_only(name, VE(), discretisation=how).rows(times)
            for how in ("consistent", "legacy")
        )
        for key in ("a", "c", "s"):
            np.testing.assert_allclose(a[key], b[key], rtol=1e-9, atol=1e-13)


def test_edm_is_ve_with_sigma_for_time():
    ve, edm = VE(0.01, 50.0), EDM(0.01, 50.0)
    times = grid(ve, 20)
    levels = np.append(ve.sigma(times[:-1]), 0.0)
    for name in ("ancestral", "reverse_diffusion", "probability_flow"):
        a, b = (predictor_only(name, p).rows(t) for p, t in ((ve, times), (edm, levels)))
        for key in ("a", "c", "s"):
            np.testing.assert_allclose(a[key], b[key], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("how", ["consistent", "legacy"])
@pytest.mark.parametrize(("n", "want"), [(18, 1.59047996), (40, 0.84104850)])
def test_probability_flow_on_ve_is_edms_euler_with_sigma_doubled(how, n, want):
    """EDM's sampler with the VE levels 0.02 .. 100 from x = 100 on N(0, 0.5^2), in [-1, 1].

    The reference numbers went through a float32 network.
    """
    solver = predictor_only("probability_flow", VE(), discretisation=how)
    offset, slope = affine_map(solver, grid(VE(), n, eps=0.0), gaussian(VE(), 0.0, 0.25))
    assert offset == 0 and 2 * 50 * slope == pytest.approx(want, rel=6e-8)


@pytest.mark.parametrize(
    "process",
    [VE(), EDM(), VP(), SubVP(), Table(), RectifiedFlow()],
    ids=lambda p: type(p).__name__,
)
def test_the_last_reverse_step_to_zero_noise_is_the_denoiser(process):
    """G^2 = sigma^2 at the end: where alpha is nearly 1 the mean is D, VE's sigma_min removed."""
    times = np.array([process.t_max, process.t_of_lam(np.float64(0.02)), 0.0])
    rows = predictor_only("reverse_diffusion", process).rows(times)
    assert rows["c"][-1] == pytest.approx(1, abs=0.02)
    assert rows["a"][-1] == pytest.approx(1 - process.alpha(times[1]), abs=1e-12)


def test_ancestral_needs_ve_or_vp():
    for process in (VE(), EDM(), VP(), Table()):
        predictor_only("ancestral", process).rows(grid(process, 4))
    predictor_only("ancestral", Cosine()).rows(grid(Cosine(), 4, "uniform", start=0.9))
    for how in ("consistent", "legacy"):
        with pytest.raises(
            UserError, match=r"ancestral .* not for SubVP; choose reverse_diffusion"
        ):
            predictor_only("ancestral", SubVP(), discretisation=how).rows(grid(SubVP(), 4))


def test_legacy_wants_its_own_processes_and_grid():
    for process in (EDM(), RectifiedFlow()):
        with pytest.raises(UserError, match=rf"not {type(process).__name__}; choose .consistent"):
            predictor_only("euler_maruyama", process, discretisation="legacy").rows(
                grid(process, 4, "uniform")
            )
    for process, times in (
        (VP(), grid(VP(), 8, "karras")),
        (Table(), grid(Table(), 500)),
        (Table(), grid(Table(), 1000, start=999.0)),
    ):
        with pytest.raises(UserError, match=r"whose grid is \{.name.: .score_sde.\}"):
            predictor_only("euler_maruyama", process, discretisation="legacy").rows(times)
    with pytest.raises(UserError, match="images with times of their own"):
        predictor_only("euler_maruyama", VP(), discretisation="legacy").row(
            jnp.array([0.5, 0.6]), jnp.array([0.4, 0.4])
        )
    # twenty steps of beta up to 20/N: more than all of the signal
    with pytest.raises(UserError, match="no finite coefficient"):
        predictor_only("ancestral", VP(), discretisation="legacy").rows(grid(VP(), 10))


def test_rows_of_images_with_their_own_times_follow_the_grids():
    for kind, process in PROCESSES.items():
        solver = predictor_only("reverse_diffusion", process)
        t, t_next = np.array([0.9, 0.5, 0.2]), np.array([0.8, 0.3, 0.0])
        host = solver.row(t, t_next)
        graph = solver.row(jnp.asarray(t), jnp.asarray(t_next))
        for key in host:
            np.testing.assert_allclose(graph[key], host[key], rtol=2e-5, atol=2e-6, err_msg=kind)
