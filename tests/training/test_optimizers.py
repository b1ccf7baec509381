import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.core.errors import UserError
from genjax.core.registry import fields_of
from genjax.training.optimizers import OPTIMIZERS

BATCH, TOTAL = 10, 100
SHAPES = {"dense": {"kernel": (4, 3), "bias": (3,)}, "embed": {"kernel": (2, 4, 4)}}


def tree(seed, scale=1.0):
    leaves, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten(
        [scale * jax.random.normal(k, shape) for k, shape in zip(keys, leaves)]
    )


def varied(i):
    """Gradients whose size changes, so that no rule can ignore it."""
    return tree(10 + i, 0.2 * 3.0**i)


def run(fields, steps=6, grads=varied):
    """Returns the parameters after each of `steps` updates with the gradients `grads(i)`."""
    params, trail = tree(0), []
    tx = OPTIMIZERS.build(fields).build(params, BATCH, TOTAL)
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(grads(i), state, params)
        params = optax.apply_updates(params, updates)
        trail.append(params)
    return trail


def zeros():
    return jax.tree.map(jnp.zeros_like, tree(0))


def differ(a, b):
    return any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# For every field: another value, and the settings under which it must change something.
OTHER = {
    "learning_rate": (2e-2, {}),
    "schedule": ({"name": "linear"}, {}),
    "clip": (0.1, {}),
    "weight_decay": (0.3, {}),
    "decay": ([["bias$", 0.0], [".*", 1.0]], {"weight_decay": 0.1}),
    "multipliers": ([["dense", 0.5], [".*", 1.0]], {}),
    "freeze": (["embed"], {}),
    "b1": (0.5, {}),
    "b2": (0.7, {}),
    "eps": (1e-2, {}),
    "moment_dtype": ("bfloat16", {"b1": 0.9}),
    "rms_clip": (0.5, {}),
    "parameter_scale": (True, {}),
    "min_factored": (2, {}),
    "stacked": (["dense/kernel"], {"min_factored": 2}),
}


def near_tie(i):
    """Gradients for which the sign that Lion takes hangs on how exactly its momentum is kept."""
    return tree(10) if i == 0 else jax.tree.map(lambda g: -0.09 * g, tree(10))


FIELDS = [(name, key) for name, cls in OPTIMIZERS.entries.items() for key in fields_of(cls)]


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_every_field_of_every_optimiser_changes_an_update(name, key):
    value, base = OTHER[key]
    base = {"name": name, "learning_rate": 1e-2, **base}
    grads = near_tie if (name, key) == ("lion", "moment_dtype") else varied
    steps = 8  # RAdam's variance comes into play in the sixth
    assert differ(run(base, steps, grads)[-1], run({**base, key: value}, steps, grads)[-1])


@pytest.mark.parametrize("name", list(OPTIMIZERS.entries))
@pytest.mark.parametrize(
    "fields", [{"clip": 0.0}, {"learning_rate": -1.0}, {"b1": 1.0}, {"weight_decay": -0.1}]
)
def test_values_out_of_range_name_the_key(name, fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        OPTIMIZERS.build({"name": name, **fields})


def reference(name, wd=0.0):
    return {
        "adamw": lambda: optax.adamw(1e-2, weight_decay=wd),
        "adam": lambda: optax.chain(optax.add_decayed_weights(wd), optax.adam(1e-2)),
        "lion": lambda: optax.lion(1e-2, weight_decay=wd),
        "radam": lambda: optax.radam(1e-2),
    }[name]()


@pytest.mark.parametrize(
    ("name", "wd"), [("adamw", 0.1), ("adam", 0.1), ("lion", 0.1), ("radam", 0.0)]
)
def test_defaults_are_the_published_rules(name, wd):
    tx, params = reference(name, wd), tree(0)
    state = tx.init(params)
    found = run({"name": name, "learning_rate": 1e-2, "weight_decay": wd}, 8)
    for i in range(8):
        updates, state = tx.update(varied(i), state, params)
        params = optax.apply_updates(params, updates)
        for a, b in zip(jax.tree.leaves(found[i]), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


DECAY = {
    "learning_rate": 0.1,
    "weight_decay": 0.5,
    "schedule": {"name": "linear"},
    "decay": [["bias$", 0.0], ["embed", 2.0], [".*", 1.0]],
    "multipliers": [["dense", 0.5], [".*", 1.0]],
}


@pytest.mark.parametrize("name", ["adamw", "radam", "lion", "adafactor"])
def test_decoupled_decay_shrinks_by_rate_times_factor_times_multiplier(name):
    found, start = run({"name": name, **DECAY}, 2, lambda i: zeros())[-1], tree(0)
    np.testing.assert_array_equal(found["dense"]["bias"], start["dense"]["bias"])
    for net, factor in (("dense", 1.0 * 0.5), ("embed", 2.0 * 1.0)):
        rate = 0.1 * 0.5 * factor
        want = start[net]["kernel"] * (1 - rate) * (1 - 0.9 * rate)  # linear: 0.9 after a tenth
        np.testing.assert_allclose(found[net]["kernel"], want, rtol=1e-6)


def test_adams_decay_is_a_gradient_of_which_the_first_step_keeps_the_sign():
    found, start = run({"name": "adam", **DECAY}, 1, lambda i: zeros())[-1], tree(0)
    np.testing.assert_array_equal(found["dense"]["bias"], start["dense"]["bias"])
    for net, rate in (("dense", 0.05), ("embed", 0.1)):
        want = start[net]["kernel"] - rate * jnp.sign(start[net]["kernel"])
        np.testing.assert_allclose(found[net]["kernel"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(OPTIMIZERS.entries))
def test_warmup_counts_images_and_starts_at_zero(name):
    fields = {"name": name, "learning_rate": 0.1, "weight_decay": 0.0}
    warm = run(fields | {"schedule": {"name": "constant", "warmup": 2 * BATCH}}, 2)
    full = run(fields, 1)
    assert not differ(warm[0], tree(0))
    assert differ(warm[1], warm[0]) and differ(full[0], tree(0))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion"])
def test_frozen_parameters_have_no_state_and_do_not_count_for_clipping(name):
    fields = {"name": name, "learning_rate": 1e-2, "weight_decay": 0.1, "freeze": ["embed"]}
    params = tree(0)
    tx = OPTIMIZERS.build(fields).build(params, BATCH, TOTAL)
    assert all(leaf.shape != (2, 4, 4) for leaf in jax.tree.leaves(tx.init(params)))
    clipped = fields | {"clip": 0.5}
    small, huge = tree(10), tree(10)
    huge["embed"]["kernel"] *= 1e6
    a, b = run(clipped, 3, grads=lambda i: small)[-1], run(clipped, 3, grads=lambda i: huge)[-1]
    assert not differ(a, b)
    assert np.array_equal(a["embed"]["kernel"], params["embed"]["kernel"])
    assert differ(a["dense"], params["dense"])


def test_clip_limits_the_global_norm():
    big = tree(3, 100.0)
    unit = jax.tree.map(lambda g: g * (0.5 / optax.global_norm(big)), big)
    fields = {"name": "adam", "eps": 1.0, "learning_rate": 1.0}
    a, b = run(fields | {"clip": 0.5}, 1, grads=lambda i: big), run(fields, 1, grads=lambda i: unit)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"decay": [["bias$", 0.0]]}, "no rule covers"),
        ({"decay": [["bais$", 0.0], [".*", 1.0]]}, "bais"),
        ({"multipliers": [["nothing", 2.0], [".*", 1.0]]}, "nothing"),
        ({"freeze": ["nothing"]}, "nothing"),
        ({"freeze": ["."]}, "nothing is left"),
        ({"beta": 0.9}, "beta"),
    ],
)
def test_masks_that_cover_too_little_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        OPTIMIZERS.build({"name": "adamw", **fields}).build(tree(0), BATCH, TOTAL)


@pytest.mark.parametrize("name", list(OPTIMIZERS.entries))
def test_boxed_parameters_give_a_boxed_state_of_the_same_structure(name):
    boxed = jax.tree.map(lambda p: nn.LogicallyPartitioned(p, (None,) * p.ndim), tree(0))
    fields = {"name": name, "freeze": ["embed"], "weight_decay": 0.1, "b1": 0.5}
    plain = OPTIMIZERS.build(fields).build(tree(0), BATCH, TOTAL)
    tx = OPTIMIZERS.build(fields).build(jax.eval_shape(lambda: boxed), BATCH, TOTAL)
    state = nn.unbox(tx.init(boxed))
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(tree(0)))
    tx.update(tree(1), state, tree(0))


def test_rate_is_what_the_updates_use():
    optimizer = OPTIMIZERS.build(
        {"name": "adam", "learning_rate": 0.2, "schedule": {"name": "linear"}}
    )
    assert optimizer.rate(50.0, 100.0) == pytest.approx(0.1)
