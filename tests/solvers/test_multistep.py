"""Which values a multistep step uses, and rows of images with times of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.process.gaussian import VP
from genjax.process.table import Table
from genjax.solvers.base import State
from tests.solvers.solver_toys import bound, keys, mixture, predictor, run
from tests.solvers.test_ddim import P1, P1_STARTS

FULL = {"lower_order_final": False}


def test_orders_of_the_first_and_last_steps():
    def orders(name, n, end=1e-3, **fields):
        return bound(name, VP(), **fields).rows(np.linspace(1, end, n + 1))["order"].tolist()

    assert orders("dpmpp_3m", 6) == [1, 2, 3, 3, 2, 1]
    assert orders("dpmpp_3m", 6, lower_order_final=False) == [1, 2, 3, 3, 3, 3]
    assert orders("dpmpp_3m", 6, lower_order_final=False, euler_at_final=True)[-2:] == [3, 1]
    assert orders("dpmpp_3m", 6, 0.0, lower_order_final=False)[-2:] == [3, 1]
    assert orders("dpmpp_2m", 15)[-2:] == [2, 2]  # published: only below 15 steps
    assert orders("unipc", 15)[-2:] == [2, 1]  # published: always
    assert orders("deis", 5) == [1, 2, 3, 3, 3]
    # a step of length 0, as DDIM's quadratic grid has them, changes nothing and hides no value
    rows = bound("dpmpp_3m", VP(), **FULL).rows(np.array([1, 0.8, 0.6, 0.6, 0.4, 0.3]))
    assert rows["order"].tolist() == [1, 2, 1, 1, 2]
    assert rows["a"][2] == 1 and rows["c"][2].tolist() == [0, 0, 0]


def test_unipc_keeps_the_value_at_the_predicted_x():
    """Two steps of order 1, by hand: one correction, and none after the last step."""
    process, grid = VP(), np.array([0.8, 0.5, 0.2])
    denoise = mixture(process, *P1)
    found = run(bound("unipc", process, order=1), grid, denoise, P1_STARTS)
    with jax.enable_x64(True):
        x, t = jnp.asarray(P1_STARTS[:, None]), grid
        (a0, a1, a2), (s0, s1, s2) = process.alpha(t), process.sigma(t)
        d0 = denoise(x, t[0])
        guess = s1 / s0 * x + (a1 - s1 / s0 * a0) * d0
        d1 = denoise(guess, t[1])
        fixed = guess + (a1 - s1 / s0 * a0) / 2 * (d1 - d0)
        end = s2 / s1 * fixed + (a2 - s2 / s1 * a1) * d1
    np.testing.assert_allclose(found, end[:, 0], atol=1e-12)


def test_deis_weights_traced_and_on_a_table():
    """In the graph as on the host; on a table the kinks between its entries are integrated too."""
    process = Table()
    solver = bound("deis", process, order=3)
    times = [np.array([700.0, 431.5]), np.array([800.0, 500.0]), np.array([900.0, 600.0])]
    t_next = np.array([600.0, 401.25])
    host = solver.weights(times, t_next)
    with jax.enable_x64(True):
        graph = jax.jit(solver.weights)([jnp.asarray(t) for t in times], jnp.asarray(t_next))
    np.testing.assert_allclose(graph["c"], host["c"], rtol=1e-5)
    fine = np.linspace(700, 600, 200001)
    lam = process.lam(fine)
    ell = (fine - 700) * (fine - 900) / ((800 - 700) * (800 - 900))
    exact = np.sum((ell[1:] + ell[:-1]) / 2 * np.diff(lam)) * process.alpha(600.0)
    assert host["c"][0, 1] == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize(
    "name", ["dpm_solver_multistep", "dpmpp_3m", "dpmpp_2m_sde", "deis", "lms", "ipndm", "pndm"]
)
def test_own_times_of_images_are_the_grids_where_they_agree(name):
    """`own` inside a step, with the grid's times for each image, is the grid's row."""
    process, grid = VP(), np.array([1.0, 0.8, 0.6, 0.45, 0.3, 0.1])
    solver = bound(name, process)
    rows = solver.rows(grid)
    with jax.enable_x64(True):
        x = jnp.asarray(P1_STARTS[:, None], jnp.float64)
        predict = predictor(mixture(process, *P1))

        @jax.jit
        def both(states, row, times, t_next):
            own = solver.own(row, times, t_next)
            return [solver.step(predict, s, r, keys(6)) for s, r in zip(states, (row, own))]

        states = [solver.init(x, ()), solver.init(x, ())]
        for i in range(5):
            row = {k: jnp.asarray(v[i]) for k, v in rows.items()}
            times = [jnp.full(6, grid[max(i - j, 0)]) for j in range(solver.depth)]
            states = both(states, row, times, jnp.full(6, grid[i + 1]))
        np.testing.assert_allclose(states[1].x, states[0].x, rtol=0, atol=1e-9)
    assert isinstance(states[0], State) and states[0].history.shape == (solver.depth, 6, 1)


def test_images_with_their_own_times_walk_alone():
    process, solver = VP(), bound("dpmpp_3m", VP(), **FULL)
    with jax.enable_x64(True):
        t = [jnp.array([0.5, 0.5]), jnp.array([0.7, 0.6]), jnp.array([0.9, 0.6])]
        row = {k: jnp.asarray(v[3]) for k, v in solver.rows(np.linspace(1, 0.1, 6)).items()}
        own = jax.jit(solver.own)(row, t, jnp.array([0.3, 0.2]))
        host = solver.weights([0.5, 0.7, 0.9], 0.3)
        np.testing.assert_allclose(own["c"][0], host["c"], rtol=1e-10)
        # the second image's times do not all fall: it takes those that do
        host = bound("dpmpp_2m", process).weights([0.5, 0.6], 0.2)
        np.testing.assert_allclose(own["c"][1], [*host["c"], 0.0], rtol=1e-10)
