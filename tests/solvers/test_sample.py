import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys as keys_lib
from genjax.core.arrays import bcast
from genjax.process.table import Table
from genjax.solvers import GRIDS, GUIDANCES, noise, pad, sample
from tests.solvers.solver_toys import bound, gaussian, keys, predictor

EVERY = [
    ("ddpm", {}, lambda n: n),
    ("ddpm", {"variance": "learned"}, lambda n: n),
    ("ddim", {}, lambda n: n),
    ("ddim", {"eta": 0.5}, lambda n: n),
    ("euler", {}, lambda n: n),
    ("euler", {"space": "lam"}, lambda n: n),
    ("heun", {}, lambda n: 2 * n - 1),
    ("heun", {"space": "lam"}, lambda n: 2 * n - 1),
    ("heun", {"t_floor": 1.0}, lambda n: 2 * n),
    ("sit_sde", {}, lambda n: n),
    ("edm", {}, lambda n: 2 * n - 1),
    ("edm", {"S_churn": 1.0}, lambda n: 2 * n - 1),
    ("pc", {}, lambda n: 2 * n),
]
ADAPTIVE = {"rk45"}  # counts its own: test_dopri5

# one of each template: affine, affine with noise, learned variance, two stages
FEW = [EVERY[i] for i in (1, 2, 6, 9)]


@pytest.mark.parametrize(("name", "fields", "nfe"), EVERY)
def test_nfe_is_what_is_really_called(name, fields, nfe):
    process, calls = Table(), []
    denoise = gaussian(process, 0.5, 0.3)

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return denoise(x, t)

    solver = bound(name, process, **fields)
    predict = predictor(counted, 0.0 if "variance" in fields else None)
    for n in (1, 5):
        rows = solver.rows(GRIDS.build({"name": "trailing"}).times(process, n))
        calls.clear()
        out = sample(solver, predict, rows, jnp.ones((2, 3)), keys(2))
        jax.effects_barrier()
        assert len(calls) == nfe(n) == solver.nfe(n)
        assert max(calls) == 1000 and np.isfinite(out).all()


@pytest.mark.parametrize(("name", "fields", "nfe"), FEW)
def test_another_grid_and_weight_of_the_same_length_never_compile_again(name, fields, nfe):
    process, traces, counts = Table(), [], []
    denoise = gaussian(process, 0.5, 0.3)
    cfg = GUIDANCES.build({"name": "cfg", "weight": 2.0, "interval": [0.1, 3.0]})

    def network(x, t, cond, inputs):
        traces.append(t)
        return SimpleNamespace(x0=denoise(x, t), variance=0 * x, features={})

    solver, label = bound(name, process, **fields), jnp.zeros(2, jnp.int32)
    predict, memory = cfg.wrap(network, label, label)
    compiled = jax.jit(lambda r, x, k: sample(solver, predict, r, x, k, memory))
    for grid in ("trailing", "leading", "quadratic"):
        for w in (2.0, 1.3):
            rows = solver.rows(GRIDS.build({"name": grid}).times(process, 6))
            rows = dataclasses.replace(cfg, weight=w, interval=(0.2, w)).rows(process, rows)
            compiled(rows, jnp.ones((2, 3)), keys(2))
            counts.append(len(traces))
    assert len(set(counts)) == 1 and compiled._cache_size() == 1


def network(params, x, t):
    """A small network whose every output depends on all pixels of its own image only."""
    h = jnp.tanh(x.reshape(len(x), -1) @ params[0] + bcast(t, x[:, 0, 0]) / 1000)
    return jnp.tanh(h @ params[1]).reshape(x.shape)


PARAMS = [jax.random.normal(jax.random.key(i), s) / 4 for i, s in enumerate([(48, 64), (64, 48)])]


@pytest.mark.parametrize(("name", "fields", "nfe"), FEW[::2])
def test_images_depend_neither_on_batch_nor_on_devices(name, fields, nfe):
    process = Table()
    solver = bound(name, process, **fields)
    rows = solver.rows(GRIDS.build({"name": "trailing"}).times(process, 8))
    predict = predictor(lambda x, t: network(PARAMS, x, t), 0.3 if "variance" in fields else None)
    every = keys(16)

    @jax.jit
    def make(rows, k):
        return sample(solver, predict, rows, noise(k, (4, 4, 3)), k)

    whole = np.asarray(make(rows, every))
    assert np.std(whole) > 0.1
    parts = [make(rows, every[i : i + 5]) for i in range(0, 15, 5)]
    np.testing.assert_allclose(np.concatenate(parts), whole[:15], atol=2e-5)
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    out = make(rows, jax.device_put(every, sharding))
    assert len(out.sharding.device_set) == 8
    np.testing.assert_allclose(np.asarray(out), whole, atol=2e-5)


def test_noise_is_the_images_own_and_not_the_solvers():
    k = keys(6)
    start = noise(k, (4, 4, 1), 80.0)
    assert start.shape == (6, 4, 4, 1) and start.dtype == jnp.float32
    assert np.std(start) == pytest.approx(80, rel=0.2)
    np.testing.assert_array_equal(noise(k[2:3], (4, 4, 1), 80.0)[0], start[2])
    for i in range(3):  # no step repeats the start's random numbers
        step = keys_lib.normal(keys_lib.fold_each(k, i), (4, 4, 1))
        assert np.abs(step - start / 80).min() > 1e-4


@pytest.mark.parametrize(("name", "fields", "nfe"), FEW[1:3])
def test_padded_rows_do_nothing(name, fields, nfe):
    process, calls = Table(), []

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return network(PARAMS, x, t)

    solver = bound(name, process, **fields)
    predict = predictor(counted, 0.3 if "variance" in fields else None)
    x = jnp.cos(jnp.arange(96.0)).reshape(2, 4, 4, 3)
    make = jax.jit(lambda r: sample(solver, predict, r, x, keys(2)))
    for n in (3, 5):
        rows = solver.rows(GRIDS.build({"name": "trailing"}).times(process, n))
        rows["inputs"] = {"scale": np.ones((n, 7))}
        plain = make(rows)
        calls.clear()
        np.testing.assert_allclose(make(pad(rows, 6)), plain, atol=2e-5)
        jax.effects_barrier()
        assert len(calls) == nfe(n)
    assert make._cache_size() == 3  # 3 rows, 5 rows, and both padded to 6
    with pytest.raises(ValueError, match="pad"):
        pad(rows, 4)


@pytest.mark.parametrize(("name", "fields", "nfe"), FEW)
def test_rows_of_single_images(name, fields, nfe):
    """A step whose images have times of their own equals the images' steps one by one."""
    process = Table()
    solver = bound(name, process, **fields)
    predict = predictor(gaussian(process, 0.5, 0.3), 0.3 if "variance" in fields else None)
    x, k = noise(keys(3), (2, 2, 1)), keys(3)
    t, t_next = jnp.array([900.0, 400.0, 37.5]), jnp.array([700.0, 390.0, 0.0])

    @jax.jit
    def one(x, t, t_next, k):
        row = {"t": 0.0, "w": 1.0, **solver.row(t, t_next)}
        return solver.step(predict, solver.init(x, ()), row, k).x

    together = one(x, t, t_next, k)
    assert np.isfinite(together).all()
    for i in range(3):
        alone = one(x[i : i + 1], t[i], t_next[i], k[i : i + 1])
        # Numbers of the size of 60: compiled apart, float32 rounds them apart by some 1e-7 of that.
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-6, atol=2e-5)
        host = solver.row(np.float64(t[i]), np.float64(t_next[i]))
        state = solver.step(predict, solver.init(x[i : i + 1], ()), host, k[i : i + 1])
        np.testing.assert_allclose(alone, state.x, atol=2e-4)  # float32 against float64 formulas
