"""The identities of the solvers, their exact moments, and both ends of a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys as keys_lib
from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VE, VP, Cosine, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS, SOLVERS
from tests.solvers.solver_toys import bound, gaussian, keys, mixture, predictor, run
from tests.solvers.test_ddim import P1, P1_STARTS

FULL = {"lower_order_final": False}
FIXED = {"budget": "fixed", **FULL}


def chain(solver, grid, denoise, variance):
    """Returns the mean's slope and offset, and the variance, of x after all steps.

    Sampling is affine in the start and every step's noise: probes that are 1 in one of them and 0
    in the others give the whole map, history included.
    """
    n = len(grid) - 1
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        x = jnp.zeros((n + 2, 1)).at[1].set(1.0)
        rows, state = solver.rows(grid), solver.init(x, ())
        for i in range(n):
            probe = jnp.zeros((n + 2, 1)).at[2 + i].set(1.0)
            patch.setattr(keys_lib, "normal", lambda k, s, dtype, z=probe: z)
            row = {k: jnp.asarray(v[i]) for k, v in rows.items()}
            state = solver.step(predictor(denoise), state, row, keys(n + 2))
        base, *ends = np.asarray(state.x)[:, 0]
    ends = np.array(ends) - base
    return base, ends[0], ends[0] ** 2 * variance + np.sum(ends[1:] ** 2)


@pytest.mark.parametrize(
    ("name", "fields", "uniform", "logsnr"),
    [
        ("dpmpp_1", {}, (0.140149140, 0.188299203), (0.154952751, 0.196827805)),
        ("dpmpp_1", {"eta": 1.0}, (0.111194120, 0.153427110), (0.111473811, 0.160903806)),
        ("euler_ancestral", {}, (0.111194120, 0.153427110), (0.111473811, 0.160903806)),
        ("dpmpp_2m_sde", FULL, (0.692056273, 0.560529384), (0.269030019, 0.265607869)),
    ],
)
def test_p2_mean_and_variance(name, fields, uniform, logsnr):
    """Data N(0.5, 0.25), from the exact marginal at t = 1 down to t = 1e-3."""
    process = VP()
    alpha, sigma = process.alpha(1.0), process.sigma(1.0)
    grids = ({"name": "uniform", "end": 1e-3}, {"name": "logsnr", "end": 1e-3, "zero": False})
    for grid, expected in zip(grids, (uniform, logsnr)):
        for n, value in zip((10, 20), expected):
            offset, slope, variance = chain(
                bound(name, process, **fields),
                GRIDS.build(grid).times(process, n),
                gaussian(process, 0.5, 0.5),
                0.25 * alpha**2 + sigma**2,
            )
            assert offset + slope * 0.5 * alpha == pytest.approx(0.499972513, abs=6e-10)
            assert variance == pytest.approx(value, abs=6e-10)


@pytest.mark.parametrize("name", ["dpmpp_1", "euler_ancestral", "ipndm", "dpm_solver", "deis"])
def test_p3_first_order_is_flow_euler(name):
    """Data N(0.5, 0.25), noise N(0, 1), t from 1 to 0."""
    process = RectifiedFlow()
    fields = {"euler_ancestral": {"eta": 0.0}, "dpm_solver": {"budget": "fixed"}}.get(name, {})
    if name not in ("dpmpp_1", "euler_ancestral"):
        fields = {**fields, "order": 1}
    for n, value in zip((4, 8, 16), (0.340540541, 0.414784554, 0.455683093)):
        grid = np.linspace(1, 0, n + 1)
        ends = run(bound(name, process, **fields), grid, gaussian(process, 0.5, 0.5), [0.0, 1.0])
        assert ends[0] == pytest.approx(0.5, abs=1e-12)
        assert ends[1] - ends[0] == pytest.approx(value, abs=6e-10)


def same(a, b, *, process=None, grid=None, starts=P1_STARTS, atol=1e-12):
    """Asserts that two solvers make the same of the same noise."""
    process = VP() if process is None else process
    grid = np.array([1.0, 0.8, 0.7, 0.5, 0.3, 0.1, 0.01]) if grid is None else grid
    denoise = mixture(process, *P1)
    out = [run(bound(n, process, **f), grid, denoise, starts) for n, f in (a, b)]
    np.testing.assert_allclose(out[0], out[1], rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("ddim", {}), ("dpm_solver", {"order": 1})),
        (("ddim", {}), ("dpmpp_1", {})),
        (("ddim", {}), ("unipc", {"order": 1, "corrector": False})),
        (("ddim", {}), ("ipndm", {"order": 1})),
        (("ddim", {}), ("deis", {"order": 1})),
        (("ddim", {}), ("lms", {"order": 1})),
        (("ddim", {"eta": 1.0}), ("dpmpp_1", {"eta": 1.0})),
        (("ddim", {"eta": 0.4}), ("euler_ancestral", {"eta": 0.4})),
        (("dpmpp_2m", FULL), ("unipc", {"order": 2, "corrector": False, **FULL})),
        (("dpmpp_3m", FULL), ("unipc", {"order": 3, "corrector": False, **FULL})),
        (("dpmpp_2m", {}), ("dpmpp_2m_sde", {"eta": 0.0})),
        (("dpmpp_2s", {}), ("dpmpp_2s_ancestral", {"eta": 0.0})),
        (("dpmpp_2s", {}), ("dpmpp_sde", {"eta": 0.0})),
        (
            ("deis", {"polynomial": "log_lam", "order": 2}),
            ("dpm_solver_multistep", {"flavour": "heun", **FULL}),
        ),
        (("heun", {"space": "lam"}), ("restart", {"intervals": []})),
        (("plms", {}), ("pndm", {"form": "s"})),
    ],
)
def test_identities(a, b):
    grid = None if a[0] != "plms" else np.array([1.0, 0.6, 0.2])  # one start, two values
    same(a, b, grid=grid)


@pytest.mark.parametrize(
    ("name", "process"),
    [
        ("dpmpp_3m", VE()),
        ("dpmpp_3m", RectifiedFlow()),
        ("dpm_solver", Cosine()),
        ("dpm_solver", Table()),
        ("lms", EDM()),
        ("lms", RectifiedFlow()),
        ("deis", Cosine()),
        ("deis", Table()),
        ("unipc", EDM()),
        ("unipc", RectifiedFlow()),
        ("dpmpp_2s", RectifiedFlow()),
        ("ipndm", Cosine()),
    ],
    ids=lambda p: p if isinstance(p, str) else type(p).__name__,
)
def test_they_go_from_the_prior_to_the_data(name, process):
    """On data N(0.5, 0.3^2) the end of a fine grid is the exact map, whatever the process.

    It starts at alpha = 0 and ends at sigma = 0 where the process does.
    """
    grid = GRIDS.build({"name": "uniform"}).times(process, 60)
    if isinstance(process, EDM | VE | Table):
        grid = GRIDS.build({"name": "karras", "sigma_min": 0.01}).times(process, 60)
    denoise = gaussian(process, 0.5, 0.3)
    at_zero, at_one = run(bound(name, process), grid, denoise, [0.0, 1.0])
    alpha, sigma = process.alpha(grid[0]), process.sigma(grid[0])
    end = process.sigma(grid[-1])
    slope = np.sqrt(0.3**2 + end**2) / np.sqrt((alpha * 0.3) ** 2 + sigma**2)
    assert at_one - at_zero == pytest.approx(slope, rel=0.02)
    assert at_zero == pytest.approx(0.5 - slope * alpha * 0.5, abs=0.01)


@pytest.mark.parametrize(("name", "order"), [("dpm_solver", 2), ("dpm_solver", 3), ("dpmpp_2s", 2)])
def test_single_steps_keep_their_order_from_alpha_0(name, order):
    process, denoise = RectifiedFlow(), mixture(RectifiedFlow(), *P1)
    fields = {"order": order, **FIXED} if name == "dpm_solver" else FULL
    solver = bound(name, process, **fields)
    n = (20, 40)
    outs = [run(solver, np.linspace(1, 0.05, k + 1), denoise, P1_STARTS) for k in (*n, 400)]
    rate = np.abs(outs[0] - outs[2]).max() / np.abs(outs[1] - outs[2]).max()
    assert np.log2(rate) == pytest.approx(order, abs=0.35)


def test_fast_budgets():
    """K evaluations: K/3 - 1 steps of order 3, then 2 and 1; or K // 3, then what is left."""
    solver = bound("dpm_solver", VP())
    for n, orders in ((9, [3, 3, 2, 1]), (10, [3, 3, 3, 1]), (11, [3, 3, 3, 2]), (3, [2, 1])):
        grid = np.linspace(1, 1e-3, n + 1)
        rows = solver.rows(grid)
        assert rows["order"].tolist() == orders and solver.nfe(n) == n
        np.testing.assert_array_equal(rows["t"], grid[np.cumsum([0, *orders[:-1]])])
    assert solver.rows(np.linspace(1, 0, 12))["order"].tolist() == [3, 3, 3, 1, 1]
    assert bound("dpm_solver", VP(), order=2).rows(np.linspace(1, 0, 8))["order"].tolist() == [
        2,
        2,
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("name", "fields", "grid", "words"),
    [
        ("pndm", {}, [1.0, 0.5, 0.0], "ipndm"),
        ("plms", {}, [1.0, 0.5, 0.0], "alpha = 0"),
        ("dpmpp_2s", FULL, [0.9, 0.5, 0.0], "lower_order_final"),
        ("restart", {}, [1.0, 0.5, 0.0], "start or end the grid"),
        ("restart", {}, [0.1, 0.05, 0.0], "lies above"),
        ("restart", {}, [0.9, 0.5, 0.4], "below the grid's last"),
        ("restart", {"intervals": [[0.3, 0.1, 1, 1]]}, [], "0 < lo < hi"),
        ("unipc", {"B": "bh3"}, [], "bh1"),
        ("unipc", {"order": 4}, [], "order must lie in"),
        ("dpmpp_2m", {"flavour": "taylor"}, [], "midpoint"),
        ("dpmpp_3m", {"compat": "diffusers"}, [], "released"),
        ("dpmpp_2m", {"eta": -1.0}, [], "eta"),
        ("dpmpp_2s", {"eta": 1.5}, [], "eta"),
        ("dpmpp_2s", {"r": 0.0}, [], "r must"),
        ("dpm_solver", {"budget": "slow"}, [], "fast"),
        ("deis", {"polynomial": "rho"}, [], "log_lam"),
        ("pndm", {"form": "x"}, [], "form"),
        ("euler_ancestral", {"eta": -0.1}, [], "eta"),
        ("lms", {"order": 0}, [], "order"),
    ],
)
def test_errors_name_what_is_wrong(name, fields, grid, words):
    with pytest.raises(UserError, match=words):
        bound(name, RectifiedFlow(), **fields).rows(np.array(grid))


@pytest.mark.parametrize("name", sorted(SOLVERS.entries))
def test_every_solver_is_built_by_its_name(name):
    SOLVERS.build({"name": name})
