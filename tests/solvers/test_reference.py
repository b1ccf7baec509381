"""Every solver of the zoo against `reference`, to 1e-10 in float64, on grids that are not even."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys as keys_lib
from genjax.process.gaussian import VP, RectifiedFlow
from genjax.solvers import SOLVERS
from tests.solvers import reference
from tests.solvers.solver_toys import bound, keys, mixture, run

STARTS = np.array([[-1.5], [-0.7], [-0.2], [0.3], [0.9], [1.8]])
MODEL = (reference.VP.weights, reference.VP.means, reference.VP.stds)
# uneven, as searched grids are: 11 steps
LONG = np.array([1.0, 0.87, 0.8, 0.66, 0.6, 0.51, 0.4, 0.26, 0.2, 0.11, 0.05, 1e-3])
P = reference.VP()
FULL = {"lower_order_final": False}


def noise(folds):
    """z(i, k): what genjax draws in step i, stage k, for the images of `run`."""

    def z(i, k=0):
        with jax.enable_x64(True):
            own = keys_lib.fold_each(keys(len(STARTS)), jnp.uint32(i))
            for fold in folds:
                own = keys_lib.fold_each(own, jnp.uint32(k if fold == "k" else fold))
            return np.asarray(keys_lib.normal(own, (1,), jnp.float64))

    return z


Z, ZK = noise(()), noise(("k",))
SINGLE = [3, 3, 3, 2]  # the fast budget of 11
ref = reference

CASES = [
    ("euler_ancestral", {}, lambda g, x: ref.euler_ancestral(P, g, x, Z, 1.0)),
    ("euler_ancestral", {"eta": 1.3}, lambda g, x: ref.euler_ancestral(P, g, x, Z, 1.3)),
    (
        "dpm_solver",
        {},
        lambda g, x: ref.single(P, g[np.cumsum([0, *SINGLE])], x, SINGLE),
    ),
    (
        "dpm_solver",
        {"order": 2, "budget": "fixed"},
        lambda g, x: ref.single(P, g, x, [2] * 10 + [1]),
    ),
    (
        "dpm_solver",
        {"order": 3, "budget": "fixed", **FULL},
        lambda g, x: ref.single(P, g, x, [3] * 11),
    ),
    ("dpmpp_2s", {}, lambda g, x: ref.two_stage(P, g, x, ZK, 0.5, 0.0, False)),
    ("dpmpp_2s", {"r": 0.3}, lambda g, x: ref.two_stage(P, g, x, ZK, 0.3, 0.0, False)),
    ("dpmpp_2s_ancestral", {}, lambda g, x: ref.two_stage(P, g, x, ZK, 0.5, 1.0, False)),
    ("dpmpp_sde", {"eta": 0.7}, lambda g, x: ref.two_stage(P, g, x, ZK, 0.5, 0.7, True)),
    ("dpmpp_1", {"eta": 0.6}, lambda g, x: ref.multistep(P, g, x, Z, order=1, form="x0", eta=0.6)),
    ("dpmpp_2m", {}, lambda g, x: ref.multistep(P, g, x, Z, order=2, form="x0", cut=True)),
    (
        "dpmpp_2m_sde",
        {"flavour": "heun", **FULL},
        lambda g, x: ref.multistep(P, g, x, Z, order=2, form="x0", flavour="heun", eta=1.0),
    ),
    ("dpmpp_3m", FULL, lambda g, x: ref.multistep(P, g, x, Z, order=3, form="x0")),
    (
        "dpmpp_3m",
        {"compat": "released"},
        lambda g, x: ref.multistep(P, g, x, Z, order=3, form="x0", factor=1.0, cut=True),
    ),
    (
        "dpmpp_3m_sde",
        {"compat": "released", "eta": 0.8, **FULL},
        lambda g, x: ref.multistep(P, g, x, Z, order=3, form="x0", factor=1.0, eta=0.8),
    ),
    (
        "dpm_solver_multistep",
        FULL,
        lambda g, x: ref.multistep(P, g, x, Z, order=2, form="eps"),
    ),
    (
        "dpm_solver_multistep",
        {"order": 3, "flavour": "heun", **FULL},
        lambda g, x: ref.multistep(P, g, x, Z, order=3, form="eps", flavour="heun"),
    ),
    (
        "unipc",
        {"order": 3},
        lambda g, x: ref.unipc(P, g, x, order=3, bh="bh2", form="x0", cut=True),
    ),
    (
        "unipc",
        {"B": "bh1", **FULL},
        lambda g, x: ref.unipc(P, g, x, order=2, bh="bh1", form="x0"),
    ),
    (
        "unipc",
        {"data_prediction": False, **FULL},
        lambda g, x: ref.unipc(P, g, x, order=2, bh="bh2", form="eps"),
    ),
    (
        "unipc",
        {"order": 3, "corrector": False, "B": "bh1", **FULL},
        lambda g, x: ref.unipc(P, g, x, order=3, bh="bh1", form="x0", corrector=False),
    ),
    ("pndm", {}, lambda g, x: ref.pndm(P, g, x, most=4, starter="rk4", starts=3)),
    ("pndm", {"form": "s"}, lambda g, x: ref.pndm(P, g, x, most=2, starter="euler", starts=1)),
    ("plms", {}, lambda g, x: ref.pndm(P, g, x, most=4, starter="euler", starts=1)),
    ("ipndm", {}, lambda g, x: ref.pndm(P, g, x, most=4)),
    ("ipndm", {"order": 3}, lambda g, x: ref.pndm(P, g, x, most=3)),
    ("deis", {}, lambda g, x: ref.deis(P, g, x, order=3)),
    ("deis", {"order": 4}, lambda g, x: ref.deis(P, g, x, order=4)),
    (
        "deis",
        {"polynomial": "log_lam"},
        lambda g, x: ref.multistep(P, g, x, Z, order=3, form="eps", flavour="heun"),
    ),
    ("lms", {}, lambda g, x: ref.lms(P, g, x, order=4)),
    ("lms", {"order": 2}, lambda g, x: ref.lms(P, g, x, order=2)),
    (
        "restart",
        {"intervals": [[0.25, 0.7, 3, 1], [0.8, 3.0, 2, 2]], "rho": 5.0},
        lambda g, x: ref.restart(P, g, x, Z, [(0.8, 3.0, 2, 2), (0.25, 0.7, 3, 1)], 5.0),
    ),
]
OLDER = {"ddpm", "ddim", "euler", "heun", "edm", "sit_sde", "pc", "rk45"}


def test_every_solver_is_here():
    assert {name for name, _, _ in CASES} | OLDER == set(SOLVERS.entries)


@pytest.mark.parametrize(("name", "fields", "expected"), CASES)
def test_it_is_what_the_sheet_prints(name, fields, expected):
    process = VP()
    found = run(bound(name, process, **fields), LONG, mixture(process, *MODEL), STARTS[:, 0])
    wanted = expected(LONG, STARTS)[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
    assert np.abs(wanted - STARTS[:, 0]).max() > 0.1


@pytest.mark.parametrize("name", ["dpm_solver_multistep", "dpmpp_3m", "dpmpp_2m", "unipc"])
def test_a_first_step_from_alpha_0_and_a_last_one_to_sigma_0(name):
    """Those two steps are DDIM's; in between, the history starts anew."""
    process, p = RectifiedFlow(), reference.Flow()
    grid = np.array([1.0, 0.9, 0.77, 0.6, 0.4, 0.25, 0.0])
    found = run(bound(name, process, **FULL), grid, mixture(process, *MODEL), STARTS[:, 0])
    x = reference.ddim(p, STARTS, 1.0, 0.9)
    rest = {
        "dpm_solver_multistep": lambda g: ref.multistep(p, g, x, Z, order=2, form="eps"),
        "dpmpp_2m": lambda g: ref.multistep(p, g, x, Z, order=2, form="x0"),
        "dpmpp_3m": lambda g: ref.multistep(p, g, x, Z, order=3, form="x0"),
        "unipc": lambda g: ref.unipc(p, g, x, order=2, bh="bh2", form="x0"),
    }
    np.testing.assert_allclose(found, rest[name](grid[1:])[:, 0], rtol=0, atol=1e-10)
