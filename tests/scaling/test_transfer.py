"""muP by multipliers: which parameters get which, and the coordinate check on DiT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.models.dit import DiT
from genjax.scaling.transfer import multipliers
from genjax.training.optimizers import OPTIMIZERS
from genjax.training.state import unboxed

HEAD, BASE = 8, 16


def network(width, depth=2, head=HEAD):
    heads = width // head
    return DiT(patch=2, width=width, depth=depth, heads=heads, num_classes=4, learn_sigma=False)


def init(model):
    x, t = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
    return model.init(jax.random.key(0), x, t, {"label": jnp.zeros(1, jnp.int32)})["params"]


def shapes(model):
    return jax.eval_shape(lambda: init(model))


def test_matrices_fed_by_the_width_get_the_ratio_and_nothing_else():
    rules = multipliers(shapes(network(64, depth=5)), shapes(network(BASE)))
    wide = {
        "blocks/attention/qkv", "blocks/attention/out", "blocks/mlp/in", "blocks/mlp/out",
        "blocks/modulation", "final_modulation", "final", "time/out",
    }  # fmt: skip
    *found, rest = rules
    assert rest == (".*", 1.0)
    assert {(p.removeprefix("(^|/)"), f) for p, f in found} == {
        (f"{name}/kernel$", BASE / 64) for name in wide
    }
    assert multipliers(shapes(network(BASE)), shapes(network(BASE))) == ((".*", 1.0),)
    with pytest.raises(UserError, match="heads have 16 channels"):
        multipliers(shapes(network(64, head=16)), shapes(network(BASE)))


WIDTHS = (16, 48, 128)


def change(width, rules, rate=3e-3, steps=4):
    """Returns the RMS by which the last block's output moves in a few steps of Adam."""
    model = network(width)
    params = unboxed(jax.jit(lambda: init(model))())
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(16, 8, 8, 1)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(16, 8, 8, 1)), jnp.float32)
    t, cond = jnp.linspace(0.0, 1.0, 16), {"label": jnp.arange(16) % 4}

    def loss(params):
        out, kept = model.apply({"params": params}, x, t, cond, features=("block_1",))
        return jnp.mean((out - target) ** 2), kept["block_1"]

    adam = {"name": "adamw", "learning_rate": rate, "weight_decay": 0.0, "multipliers": rules}
    tx = OPTIMIZERS.build(adam).build(params, 16, 1000)

    @jax.jit
    def step(params, state):
        (_, features), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state, features

    state, seen = jax.jit(tx.init)(params), []
    for _ in range(steps + 1):
        params, state, features = step(params, state)
        seen.append(np.asarray(features))
    assert np.isfinite(seen[-1]).all()
    return float(np.sqrt(np.mean((seen[-1] - seen[0]) ** 2)))


def slope(changes):
    return float(np.polyfit(np.log(WIDTHS), np.log(changes), 1)[0])


@pytest.mark.slow
def test_coordinates_move_alike_at_every_width():
    """The coordinate check: with muP the change of a hidden value does not grow with the width.

    Without it, it does: the first steps are then larger the wider the network (measured: 0.022 to
    0.060 over an eightfold width; with it 0.022 to 0.027).
    """
    base = shapes(network(BASE))
    plain = [change(w, ((".*", 1.0),)) for w in WIDTHS]
    scaled = [change(w, multipliers(shapes(network(w)), base)) for w in WIDTHS]
    assert plain[0] == scaled[0]  # the base is left alone
    assert abs(slope(scaled)) < 0.25 and slope(plain) > 0.4
