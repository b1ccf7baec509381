"""Problem P1: the error of every solver against the number of steps, and its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.process.gaussian import VP
from genjax.solvers import GRIDS, pad, sample
from tests.solvers.solver_toys import bound, keys, mixture, predictor
from tests.solvers.test_ddim import P1, P1_ENDS, P1_STARTS

STEPS = (40, 80, 160, 320, 640)
FULL = {"lower_order_final": False}
FIXED = {"budget": "fixed", **FULL}
# max-abs errors at STEPS on problem P1, grid uniform in log-SNR, and the order
TABLE = [
    ("dpm_solver", {"order": 1, **FIXED}, (6.59e-2, 3.16e-2, 1.55e-2, 7.67e-3, 3.82e-3), 1),
    ("dpmpp_1", {}, (6.59e-2, 3.16e-2, 1.55e-2, 7.67e-3, 3.82e-3), 1),
    ("dpm_solver", {"order": 2, **FIXED}, (3.27e-3, 7.94e-4, 1.95e-4, 4.85e-5, 1.21e-5), 2),
    ("dpm_solver", {"order": 3, **FIXED}, (4.75e-5, 6.32e-6, 8.14e-7, 1.03e-7, 1.30e-8), 3),
    ("dpmpp_2s", FULL, (4.52e-3, 1.17e-3, 2.99e-4, 7.55e-5, 1.90e-5), 2),
    ("dpmpp_2m", {}, (3.81e-3, 9.02e-4, 2.20e-4, 5.42e-5, 1.35e-5), 2),
    ("dpmpp_3m", {"compat": "released"}, (1.02e-3, 2.57e-4, 6.52e-5, 1.65e-5, 4.14e-6), 2),
    ("dpmpp_3m", {}, (6.39e-4, 7.29e-5, 8.68e-6, 1.06e-6, 1.32e-7), 3),
    ("unipc", {"order": 1, **FULL}, (1.36e-2, 3.45e-3, 8.69e-4, 2.18e-4, 5.47e-5), 2),
    ("unipc", {"order": 2, **FULL}, (8.38e-4, 1.04e-4, 1.30e-5, 1.62e-6, 2.02e-7), 3),
    ("unipc", {"order": 2, "B": "bh1", **FULL}, (1.61e-3, 2.22e-4, 2.99e-5, 3.88e-6, 4.93e-7), 3),
    ("unipc", {"order": 3, **FULL}, (1.97e-4, 2.55e-5, 1.89e-6, 1.25e-7, 7.91e-9), 4),
    ("pndm", {"form": "s"}, (6.28e-3, 1.62e-3, 4.14e-4, 1.04e-4, 2.63e-5), 2),
    ("pndm", {}, (2.38e-3, 6.20e-4, 1.53e-4, 3.80e-5, 9.49e-6), 2),
    ("ipndm", {}, (2.38e-3, 6.20e-4, 1.53e-4, 3.80e-5, 9.49e-6), 2),
    ("lms", {}, (4.27e-3, 3.91e-4, 2.94e-5, 2.01e-6, 1.33e-7), 4),
    # not in the published table: only the order
    ("plms", {}, None, 2),
    ("dpm_solver_multistep", {}, None, 2),
    ("dpm_solver_multistep", {"order": 3}, None, 3),
    ("dpm_solver_multistep", {"order": 3, "compat": "released"}, None, 2),
    ("deis", {}, None, 3),
    ("deis", {"order": 2}, None, 2),
    ("lms", {"order": 3}, None, 3),
    ("restart", {"intervals": [], "rho": 7.0}, None, 2),
    ("unipc", {"order": 3, "corrector": False, **FULL}, None, 3),
]


def errors(solver, n_all=STEPS):
    """All numbers of steps in one compilation: padded grids do nothing where they are padded."""
    process, grid = VP(), GRIDS.build({"name": "logsnr", "end": 1e-3, "zero": False})
    with jax.enable_x64(True):
        x = jnp.asarray(P1_STARTS[:, None], jnp.float64)
        predict = predictor(mixture(process, *P1))
        make = jax.jit(lambda rows, x, k: sample(solver, predict, rows, x, k))
        out = [
            np.asarray(make(pad(solver.rows(grid.times(process, n)), max(n_all)), x, keys(6)))
            for n in n_all
        ]
    return np.array([np.abs(x[:, 0] - P1_ENDS).max() for x in out])


@pytest.mark.parametrize(("name", "fields", "published", "order"), TABLE)
def test_order_and_published_errors(name, fields, published, order):
    found = errors(bound(name, VP(), **fields))
    if published is not None:
        np.testing.assert_allclose(found, published, rtol=5e-3)  # three digits are printed
    slopes = np.log2(found[2:-1] / found[3:])
    np.testing.assert_allclose(slopes, order, atol=0.15)
