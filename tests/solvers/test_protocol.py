"""That the solver protocol holds methods that are not built yet: each class here is a whole one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys as keys_lib
from genjax.core.types import Prediction, pytree
from genjax.process.gaussian import VP, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS, Solver, noise, sample
from genjax.solvers.base import State, at, slope, standard_normal
from genjax.solvers.ddim import DDIM
from genjax.solvers.euler import Euler
from tests.solvers.solver_toys import bound, gaussian, keys, mixture, predictor


class AdamsBashforth2(Solver):
    """Multistep: the state remembers the last slope."""

    def coefficients(self, t, t_next):
        p, q = slope(self.process, t)
        return {"h": t_next - t, "p": p, "q": q, "old": np.where(t == t[0], 0.0, -0.5)}

    def init(self, x, memory):
        return State(x, memory, history=jnp.zeros_like(x))

    def step(self, predict, state, row, keys):
        out, memory = predict(state.x, row, state.memory)
        v = row["p"] * state.x + row["q"] * out.x0
        x = state.x + row["h"] * ((1 - row["old"]) * v + row["old"] * state.history)
        return State(x, memory, v)


def test_multistep():
    process = RectifiedFlow()
    predict = predictor(mixture(process, (0.3, 0.7), (-1.0, 0.6), (0.4, 0.5)))
    with jax.enable_x64(True):
        x = jnp.array([-1.5, -0.2, 0.9], jnp.float64)[:, None]
        ab2, heun = AdamsBashforth2().bind(process), bound("heun", process, t_floor=0.02)
        coarse, fine, exact = (
            np.asarray(sample(s, predict, s.rows(np.linspace(1, 0.02, n + 1)), x, keys(3)))
            for s, n in ((ab2, 80), (ab2, 160), (heun, 1000))
        )
    order = np.log2(np.abs(coarse - exact).max() / np.abs(fine - exact).max())
    assert order == pytest.approx(2, abs=0.2)


class PredictorCorrector(Euler):
    """Predictor-corrector: an Euler step, then one Langevin step at the new noise level."""

    def coefficients(self, t, t_next):
        new = {"alpha": self.process.alpha(t_next), "sigma": self.process.sigma(t_next)}
        return {**super().coefficients(t, t_next), **new}

    def step(self, predict, state, row, keys):
        state = super().step(predict, state, row, keys)
        out, memory = predict(state.x, at(row, "_next"), state.memory)
        size = 0.1 * row["sigma"] ** 2
        score = (row["alpha"] * out.x0 - state.x) / row["sigma"] ** 2
        z = standard_normal(jax.vmap(lambda k: keys_lib.fold(k, "corrector"))(keys), state.x)
        return State(state.x + size * score + jnp.sqrt(2 * size) * z, memory)

    def nfe(self, n):
        return 2 * n


def test_predictor_corrector():
    """Langevin steps repair half of the variance that three Euler steps lose."""
    process, seen = VP(), []
    grid = GRIDS.build({"name": "logsnr", "end": 0.3, "zero": False}).times(process, 3)
    mean, std = 0.5, 0.5
    target = np.sqrt((process.alpha(0.3) * std) ** 2 + process.sigma(0.3) ** 2)

    def denoise(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return gaussian(process, mean, std)(x, t)

    off = {}
    for solver in (Euler("lam").bind(process), PredictorCorrector("lam").bind(process)):
        seen.clear()
        k = keys(200)
        x = sample(solver, predictor(denoise), solver.rows(grid), noise(k, (100,)), k)
        jax.effects_barrier()
        off[type(solver)] = abs(np.std(x) - target)
        assert len(seen) == solver.nfe(3)
    assert seen[1] == pytest.approx(grid[1], rel=1e-6)  # the corrector looks at the new time
    assert off[PredictorCorrector] < 0.7 * off[Euler] and off[Euler] > 0.03


@pytree
class Decoding:
    tokens: jax.Array
    memory: jax.Array  # the network's cache


class Greedy:
    """Autoregressive decoding: the state holds the tokens and the cache; a row is a position."""

    def rows(self, length):
        return {"t": np.arange(length)}

    def init(self, x, memory):
        return Decoding(x, memory)

    def step(self, predict, state, row, keys):
        out, cache = predict(state.tokens, row, state.memory)
        return Decoding(state.tokens.at[:, row["t"]].set(out.x0.argmax(-1)), cache)

    def output(self, state):
        return state.tokens


def test_autoregressive():
    """A network that needs its cache: the next token is the sum of all before, plus 1, mod 11."""

    def predict(tokens, row, cache):
        i = row["t"]
        last = jnp.where(i > 0, tokens[:, i - 1], jnp.arange(len(tokens)))  # the prompt: image i
        cache = cache.at[:, i].set(last)
        return Prediction(jax.nn.one_hot((cache.sum(1) + 1) % 11, 11)), cache

    tokens = jax.jit(lambda r, x, k, c: sample(Greedy(), predict, r, x, k, c))(
        Greedy().rows(6), jnp.zeros((3, 6), jnp.int32), keys(3), jnp.zeros((3, 6), jnp.int32)
    )
    for i, row in enumerate(np.asarray(tokens)):
        history = [i]
        for token in row:
            assert token == (sum(history) + 1) % 11
            history.append(token)
    assert tokens.dtype == jnp.int32


@dataclasses.dataclass(frozen=True)
class Momentum:
    """Guidance with memory: a running mean of the guidance direction (as in APG)."""

    weight: float
    beta: float

    def wrap(self, denoise, cond, null):
        def predict(x, row, memory):
            yes, no = denoise(x, row["t"], cond), denoise(x, row["t"], null)
            memory = yes - no + self.beta * memory
            return Prediction(yes + (self.weight - 1) * memory, no), memory

        return predict, jnp.zeros_like


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_guidance_with_memory(name):
    process, w, beta = RectifiedFlow(), 3.0, -0.5
    solver, (yes, no) = bound(name, process), (0.8, -0.3)
    predict, start = Momentum(w, beta).wrap(
        lambda x, t, mean: gaussian(process, mean, 0.5)(x, t), yes, no
    )
    x = noise(keys(2), (3,))
    rows = solver.rows(np.linspace(1, 0, 6))
    out = jax.jit(lambda r, x, k: sample(solver, predict, r, x, k, start))(rows, x, keys(2))

    memory, state = np.zeros((2, 3)), solver.init(x, ())
    for i in range(5):  # the same without a scan, the memory kept by hand

        def remembering(x, row, _):
            nonlocal memory
            a, b = (gaussian(process, m, 0.5)(x, row["t"]) for m in (yes, no))
            memory = np.asarray(a - b) + beta * memory
            return Prediction(a + (w - 1) * memory), ()

        with jax.disable_jit():
            row = jax.tree.map(lambda a, i=i: jnp.float32(a[i]), rows)
            state = solver.step(remembering, state, row, keys(2))
    np.testing.assert_allclose(out, state.x, rtol=1e-5, atol=1e-5)
    assert np.abs(memory).max() > 0.01


@dataclasses.dataclass(frozen=True)
class OwnTimes(DDIM):
    """A wrapper in the manner of the time-shift sampler: every image chooses its own time."""

    def step(self, predict, state, row, keys):
        variance = state.x.reshape(len(state.x), -1).var(axis=1)
        t = jnp.clip(row["t"] + 40 * (variance - 1), row["t_next"] + 1, 1000)
        own = self.row(t, jnp.broadcast_to(row["t_next"], t.shape))
        return super().step(predict, state, {**row, **own}, keys)


def test_times_chosen_by_each_image():
    process, seen = Table(), []

    def denoise(x, t):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return gaussian(process, 0.0, 0.5)(x, t)

    solver = OwnTimes().bind(process)
    rows = solver.rows(GRIDS.build({"name": "trailing"}).times(process, 10))
    make = jax.jit(lambda r, x, k: sample(solver, predictor(denoise), r, x, k))
    x = noise(keys(4), (4, 4, 1))
    out = make(rows, x, keys(4))
    jax.effects_barrier()
    assert np.isfinite(out).all() and len(seen) == 10
    assert all(t.shape == (4,) for t in seen) and len(set(seen[4].tolist())) == 4
    np.testing.assert_allclose(out[1:2], make(rows, x[1:2], keys(4)[1:2]), atol=2e-5)
