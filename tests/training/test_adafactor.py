"""Parti's Adafactor against its equations in float64, written here once more from the sheet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.training.factored import quantised_ema
from genjax.training.optimizers import OPTIMIZERS
from genjax.training.schedules import SCHEDULES

FIELDS = {
    "name": "adafactor",
    "learning_rate": 0.02,
    "schedule": {"name": "linear"},
    "b1": 0.9,
    "b2": 0.96,
    "weight_decay": 0.045,
    "clip": 4.0,
    "min_factored": 3,
    "stacked": ("blocks/",),
}
SHAPES = {  # stacks of 2 layers below "blocks"
    "blocks": {"kernel": (2, 4, 5), "scale": (2, 4)},
    "table": (6, 4),
    "bias": (7,),
    "gain": (),
}


def layer_step(g, theta, state, t, lr, *, quantise):
    """One update of one layer's parameter: (new theta, state), everything in float64."""
    b1, b2, wd = 0.9, 0.96, 0.045
    decay = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
    square = g**2 + 1e-30
    if g.ndim == 2 and min(g.shape) >= 3:
        r = decay * state.get("r", 0) + (1 - decay) * square.mean(1)
        c = decay * state.get("c", 0) + (1 - decay) * square.mean(0)
        v, kept = np.outer(r, c) / r.mean(), {"r": r, "c": c}
    else:
        v = decay * state.get("v", 0) + (1 - decay) * square
        kept = {"v": v}
    u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt(np.mean(u**2)))
    m = b1 * state.get("m", 0) + (1 - b1) * lr * u
    stored = m
    if quantise and m.ndim:
        scale = np.abs(m).max(0) / 127
        stored = np.round(m / scale) * scale
    return theta - m - lr * wd * theta, {**kept, "m": stored}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_updates_follow_the_equations(dtype):
    rng = np.random.default_rng(0)
    tree = lambda: jax.tree.map(  # noqa: E731
        lambda s: rng.normal(size=s).astype(np.float32), SHAPES, is_leaf=lambda s: type(s) is tuple
    )
    theta, total, steps = tree(), 10, 5
    tx = OPTIMIZERS.build({**FIELDS, "moment_dtype": dtype}).build(theta, 1, total)
    state, params, want, kept = tx.init(theta), jax.tree.map(jnp.asarray, theta), {}, {}
    for path, x in jax.tree_util.tree_flatten_with_path(theta)[0]:
        want[jax.tree_util.keystr(path)] = x.astype(np.float64)
    for t in range(1, steps + 1):
        gradient = tree()
        updates, state = jax.jit(tx.update)(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        leaves = jax.tree_util.tree_flatten_with_path(gradient)[0]
        norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for _, g in leaves))
        lr = 0.02 * (1 - (t - 1) / total)
        for path, g in leaves:
            name = jax.tree_util.keystr(path)
            g = g.astype(np.float64) * min(1.0, 4.0 / norm)
            layers = range(len(g)) if "blocks" in name else [...]
            new = want[name].copy()
            for i in layers:
                slot = kept.setdefault((name, str(i)), {})
                moved, found = layer_step(
                    g[i], want[name][i], slot, t, lr, quantise=dtype == "int8"
                )
                new[i], kept[name, str(i)] = moved, found
            want[name] = new
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        np.testing.assert_allclose(
            x, want[jax.tree_util.keystr(path)], rtol=0, atol=1e-6, err_msg=str(path)
        )


def test_int8_momentum_is_int8_and_its_error_half_a_step():
    tx = quantised_ema(0.0, lambda path: "blocks" in path)
    u = {"blocks": jax.random.normal(jax.random.key(0), (2, 8, 3)), "bias": jnp.arange(5.0)}
    _, state = tx.update(u, tx.init(u))
    assert {x.dtype for x in jax.tree.leaves(state.moment)} == {jnp.dtype("int8")}
    assert state.scale["blocks"].shape == (2, 1, 3) and state.scale["bias"].shape == (1,)
    back = jax.tree.map(lambda q, s: q * s, state.moment, state.scale)
    error = jnp.abs(back["blocks"] - u["blocks"])
    assert (error <= jnp.abs(u["blocks"]).max(1, keepdims=True) / 254 * 1.001).all()
    _, again = tx.update(back, state)
    jax.tree.map(np.testing.assert_array_equal, again.moment, state.moment)


def test_zero_columns_stay_zero():
    tx = quantised_ema(0.9)
    u = jnp.zeros((4, 4)).at[:, 1].set(3.0)
    m, state = tx.update(u, tx.init(u))
    assert np.isfinite(m).all() and not np.asarray(state.moment)[:, 0].any()


def test_stacked_must_match():
    optimizer = OPTIMIZERS.build({**FIELDS, "stacked": ("layers/",)})
    with pytest.raises(UserError, match="stacked"):
        optimizer.build({"blocks": {"kernel": jnp.ones((2, 3, 3))}}, 1, 10)


def test_published_rates():
    batch, steps = 8192, 450_000
    parti = SCHEDULES.build(
        {"name": "exponential", "warmup": batch * 5_000, "hold": batch * 85_000, "final": 0.025}
    )
    rates = [4.5e-5 * parti(np.float64(batch * n), batch * steps) for n in (2500, 267_500, 450_000)]
    np.testing.assert_allclose(rates, [2.25e-5, 7.115e-6, 1.125e-6], rtol=1e-4)
    vim = SCHEDULES.build(
        {"name": "exponential", "warmup": 5_000, "hold": 80_000, "final": 1e-5 / 4.5e-4}
    )
    assert 4.5e-4 * vim(np.float64(265_000), 450_000) == pytest.approx(6.708e-5, rel=1e-4)
