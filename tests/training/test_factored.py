import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.training.factored import scale_by_factored_moments, scale_by_parameter_rms
from genjax.training.optimizers import OPTIMIZERS


def steps(tx, gradients, params):
    state, out = tx.init(params), []
    for g in gradients:
        u, state = tx.update(g, state, params)
        out.append(u)
    return out, state


def test_rank_one_squared_gradient_gives_signs_in_the_first_update():
    a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 4.0])
    sign = jnp.array([[1, -1], [-1, 1], [1, 1.0]])
    g = {"w": sign * a[:, None] * b}
    (u,), state = steps(scale_by_factored_moments(0.99, 1e-30, None, 2), [g], g)
    np.testing.assert_allclose(u["w"], sign, rtol=1e-6)
    assert state.row["w"].shape == (3,) and state.col["w"].shape == (2,)
    assert state.full["w"].shape == (1,)


def test_unfactored_second_moment_is_adams():
    key = jax.random.key(0)
    gradients = [jax.random.normal(jax.random.fold_in(key, i), (4, 3)) for i in range(6)]
    out, _ = steps(scale_by_factored_moments(0.9, 1e-30, None, 128), gradients, gradients[0])
    v = jnp.zeros((4, 3))
    for i, (g, u) in enumerate(zip(gradients, out)):
        v = 0.9 * v + 0.1 * g**2
        np.testing.assert_allclose(u, g / jnp.sqrt(v / (1 - 0.9 ** (i + 1))), rtol=2e-5)


@pytest.mark.parametrize("rms_clip", [None, 0.7])
def test_a_stack_of_layers_trains_as_its_layers_would(rms_clip):
    tx = scale_by_factored_moments(0.9, 1e-30, rms_clip, 2)
    scale = jnp.array([1.0, 100.0])[:, None, None]
    stacks = [scale * jax.random.normal(jax.random.key(i), (2, 4, 3)) for i in range(3)]
    stacked, _ = steps(tx, stacks, stacks[0])
    for layer in range(2):
        single, _ = steps(tx, [g[layer] for g in stacks], stacks[0][layer])
        for a, b in zip(stacked, single):
            np.testing.assert_allclose(a[layer], b, rtol=1e-6)


def test_clipping_and_parameter_scale():
    g = jnp.array([1.0, 1.0, 1.0, 1.0])
    (u,), _ = steps(scale_by_factored_moments(0.9, 1e-30, 0.25, 2), [g], g)
    np.testing.assert_allclose(u, 0.25 * g, rtol=1e-6)
    params = {"a": jnp.array([3.0, -3.0]), "b": jnp.zeros(2)}
    ones = jax.tree.map(jnp.ones_like, params)
    (u,), _ = steps(scale_by_parameter_rms(), [ones], params)
    np.testing.assert_allclose(u["a"], 3.0)
    np.testing.assert_allclose(u["b"], 1e-3)


def test_momentum_averages_updates_that_carry_their_rate():
    fields = {"name": "adafactor", "learning_rate": 0.1, "b1": 0.5, "weight_decay": 0.0}
    tx = OPTIMIZERS.build(fields | {"schedule": {"name": "linear"}}).build(jnp.ones(3), 1, 10)
    g = jnp.ones(3)
    out, _ = steps(tx, [g, g], g)
    np.testing.assert_allclose(out[0], -0.5 * 0.1, rtol=1e-6)
    np.testing.assert_allclose(out[1], -(0.25 * 0.1 + 0.5 * 0.09), rtol=1e-6)
