"""The classifier task: its streams, grey levels, a few steps that learn, and predictions."""

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
from genjax.evaluation.images import to_uint8
from genjax.tasks import TASKS
from genjax.tasks.classifier import Classifier

VIEW = View({}, {}, {}, {})


def build(**fields):
    small = {"name": "classifier", "width": 8, "features": 16}
    return TASKS.build({"name": "classifier", "model": small, "image": (8, 8, 1)} | fields)


def stripes(n, levels=17, seed=0):
    """Two classes: horizontal and vertical waves."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(np.int32)
    wave = np.sin(np.arange(8)[None] * 1.6 + rng.uniform(0, 6, (n, 1)))
    rows = np.broadcast_to(wave[:, :, None], (n, 8, 8))
    pictures = np.where(labels[:, None, None] == 0, rows, rows.transpose(0, 2, 1))
    image = np.round((pictures + 1) / 2 * (levels - 1)).astype(np.uint8)[..., None]
    return {"image": image, "label": labels}


def test_it_is_a_task():
    task = build(levels=17)
    assert isinstance(task, Classifier) and task.num_classes == 10
    (player,) = task.players
    assert player.trains == ("model",) and player.streams == ("main",)
    image = task.streams["main"]["image"]
    assert image.shape == (8, 8, 1) and image.dtype == "uint8"
    assert task.load_frozen() == {}
    assert task.forward_flops() == task.model.forward_flops((8, 8, 1))
    with pytest.raises(UserError, match="levels must be at least 2"):
        build(levels=1)


def test_it_learns_and_its_held_out_metrics_say_so():
    task = build(levels=17)
    params = nn.unbox(jax.jit(task.init)(keys.key(0, "init"))["params"])
    optimiser = optax.adam(3e-3)
    state = optimiser.init(params)
    objective = task.players[0].objective

    @jax.jit
    def step(params, state, batch, i):
        grads, aux = jax.grad(
            lambda p: objective(p, VIEW, batch, keys.key(0, "step", i), Progress(i, 0, 1)),
            has_aux=True,
        )(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, aux.metrics

    test = {"main": stripes(100, seed=99)}
    heldout = jax.jit(lambda p: task.heldout(p, VIEW, test, keys.key(0, "heldout")).metrics)
    before = heldout(params)
    for i in range(30):
        params, state, _ = step(params, state, {"main": stripes(32, seed=i)}, i)
    after = heldout(params)
    assert float(before["accuracy"][0] / before["accuracy"][1]) < 0.7
    assert float(after["accuracy"][0] / after["accuracy"][1]) == 1.0
    predicted = task.predict(params["model"], jnp.asarray(test["main"]["image"]))
    assert np.array_equal(predicted["logits"].argmax(-1), test["main"]["label"])


def test_stored_levels_and_images_for_the_eye_are_seen_alike():
    task = build(levels=16)  # 255 / 15 is a whole number: the conversion is exact
    params = nn.unbox(jax.jit(task.init)(keys.key(0, "init"))["params"])["model"]
    raw = stripes(4, levels=16)["image"]
    stored = task.predict(params, jnp.asarray(raw))
    shown = task.predict(params, jnp.asarray(to_uint8(raw, 16)), levels=256)
    np.testing.assert_allclose(stored["features"], shown["features"], rtol=1e-4, atol=1e-6)


def test_as_an_extractor():
    task = build(levels=17)
    params = nn.unbox(jax.jit(task.init)(keys.key(0, "init"))["params"])["model"]
    network = open_extractor("classifier:somewhere", Tools(lambda path: (task, params)))
    raw = to_uint8(stripes(4)["image"], 17)
    out = network(raw)
    assert out["features"].shape == (4, 16) == (4, network.dim) and out["logits"].shape == (4, 10)
    # The hash is that of weights and architecture, wherever they come from.
    again = open_extractor(
        "classifier:elsewhere", Tools(lambda path: (task, jax.tree.map(np.array, params)))
    )
    assert again.hash == network.hash and len(network.hash) == 64
    moved = jax.tree.map(lambda p: p + 1e-6, params)
    assert open_extractor("classifier:x", Tools(lambda path: (task, moved))).hash != network.hash
    with pytest.raises(UserError, match=r"reads images \[8, 8, 1\], not \[28, 28, 1\]"):
        network(np.zeros((1, 28, 28, 1), np.uint8))
