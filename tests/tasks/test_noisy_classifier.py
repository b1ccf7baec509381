"""The classifier of noisy images: what the network sees, for any process, and that it learns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.core import keys
from genjax.core.errors import UserError
from genjax.core.types import Progress, View
from genjax.evaluation import Tools, open_extractor
from genjax.process import PROCESSES
from genjax.tasks import TASKS
from tests.tasks.test_classifier_task import stripes

pytestmark = pytest.mark.slow  # wide networks, compiled several times

VIEW = View({}, {}, {}, {})
NET = {"name": "wide_resnet", "depth": 10, "widen": 1, "num_classes": 2}


def build(**fields):
    base = {"name": "classifier", "model": NET, "image": (8, 8, 1), "levels": 17}
    noise = {"process": {"name": "edm"}, "times": {"name": "log_lam", "unbiased": False}}
    return TASKS.build(base | noise | fields)


def parameters(task, seed=0):
    return nn.unbox(jax.jit(task.init)(keys.key(seed, "init"))["params"])


def test_it_learns_where_there_is_little_noise_and_cannot_where_there_is_much():
    task = build()
    params, optimiser = parameters(task), optax.adam(3e-3)
    state, objective = optimiser.init(params), task.players[0].objective

    @jax.jit
    def step(params, state, batch, i):
        grads = jax.grad(
            lambda p: objective(p, VIEW, batch, keys.key(0, "step", i), Progress(i, 0, 1))[0]
        )(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state

    for i in range(60):
        params, state = step(params, state, {"main": stripes(64, seed=i)}, i)
    test = stripes(200, seed=99)
    x0 = jnp.asarray(test["image"], jnp.float32) / 8 - 1
    label, eps = jnp.asarray(test["label"]), jax.random.normal(jax.random.key(0), x0.shape)

    def accuracy(name, lam, **fields):
        process = PROCESSES.build({"name": name, **fields})
        t = jnp.full(200, process.t_of_lam(lam), jnp.float32)
        xt = process.perturb(x0, eps, t)
        log_p = [
            task.log_likelihood(params["model"], xt, t, 0 * label + k, process, (-1.0, 1.0))
            for k in range(2)
        ]
        np.testing.assert_allclose(jnp.exp(log_p[0]) + jnp.exp(log_p[1]), 1, rtol=1e-4)
        return float(jnp.mean((log_p[1] > log_p[0]) == label))

    for name in ("edm", "vp", "flow"):  # it was trained on EDM's
        assert accuracy(name, 0.1) > 0.95
        assert accuracy(name, 60.0) < 0.7
    heldout = task.heldout(params, VIEW, {"main": test}, keys.key(0, "heldout")).metrics
    assert float(heldout["accuracy"][0] / 200) > 0.55
    clean = task.predict(params["model"], jnp.asarray(test["image"]))
    assert np.mean(clean["logits"].argmax(-1) == test["label"]) > 0.95


def test_all_processes_and_ranges_are_seen_alike():
    """The same picture with the same signal-to-noise ratio, in three processes and two ranges."""
    task = build()
    params = parameters(task)["model"]
    x0 = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1), minval=-1)
    eps = jax.random.normal(jax.random.key(2), x0.shape)
    label = jnp.arange(4) % 2
    found = []
    for name, (low, high) in (("edm", (-1, 1)), ("vp", (-1, 1)), ("ve", (0, 1)), ("flow", (0, 1))):
        process = PROCESSES.build({"name": name})
        half = (high - low) / 2
        t = jnp.full(4, process.t_of_lam(0.7 * half), jnp.float32)
        xt = process.perturb((low + high) / 2 + half * x0, eps, t)
        found.append(task.log_likelihood(params, xt, t, label, process, (low, high)))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-3, atol=1e-4)


def test_both_ends_of_every_process_are_finite():
    task = build()
    params = parameters(task)["model"]
    x, label = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([0, 1])
    for name in ("edm", "vp", "ve", "flow"):
        process = PROCESSES.build({"name": name})
        t = jnp.array([0.0, process.t_max], jnp.float32)

        def total(x, t=t, process=process):
            return task.log_likelihood(params, x, t, label, process, (-1.0, 1.0)).sum()

        assert np.isfinite(jax.grad(total)(x)).all(), name


def test_as_an_extractor():
    task = build()
    params = parameters(task)["model"]
    network = open_extractor("classifier:somewhere", Tools(lambda path: (task, params)))
    out = network(np.asarray(stripes(4)["image"] * 15, np.uint8))
    assert out["features"].shape == (4, 64) and out["logits"].shape == (4, 2)


def test_what_is_refused():
    with pytest.raises(UserError, match="is not told how noisy"):
        build(model={"name": "classifier", "width": 8})
    with pytest.raises(UserError, match="data_range"):
        build(data_range=(1.0, 0.0))
    clean = build(process=None)
    assert clean.init(keys.key(0, "init"))["params"]["model"].keys().isdisjoint({"fourier"})
