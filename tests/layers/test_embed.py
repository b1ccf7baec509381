"""Embeddings against the numbers and the half orders of the papers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.layers.embed import (
    FourierFeatures,
    patchify,
    sincos_2d,
    timestep_embedding,
    unpatchify,
)


def test_position_table_encodes_the_column_first():
    table = sincos_2d(16, 2, 3)
    assert table.shape == (6, 16) and table.dtype == np.float32
    want = [0.84147, 0.09983, 0.01, 0.001, 0.5403, 0.995, 0.99995, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(table[1], want, atol=5e-6)
    # Token (row 1, col 0) of three columns is the same with the halves exchanged.
    np.testing.assert_allclose(table[3], np.roll(want, 8), atol=5e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(18, 2, 2)


def test_time_embedding_of_dit():
    e = np.asarray(timestep_embedding(jnp.array([500.0, 0.0])))
    want = {0: -0.883849, 1: 0.945943, 127: 0.998557, 128: -0.467772, 129: 0.324334, 255: 0.053705}
    for i, value in want.items():
        np.testing.assert_allclose(e[0, i], value, atol=3e-5)
    np.testing.assert_array_equal(e[1], np.repeat([1.0, 0.0], 128))


def test_time_embedding_orders_and_denominators():
    t = jnp.array([3.0])
    plain, other = timestep_embedding(t, 8), timestep_embedding(t, 8, order="sin_cos")
    np.testing.assert_array_equal(jnp.roll(plain, 4, axis=-1), other)
    last = timestep_embedding(t, 8, denominator="half_minus_one", max_period=100.0)[0, 3]
    np.testing.assert_allclose(last, np.cos(3 / 100.0), rtol=1e-6)
    np.testing.assert_allclose(plain[0, 3], np.cos(3 * 10000 ** (-3 / 4)), rtol=1e-6)
    with pytest.raises(ValueError, match="must be even"):
        timestep_embedding(t, 7)


def test_times_are_float32_even_when_given_as_integers():
    e = timestep_embedding(jnp.array([997, 996]))
    assert e.dtype == jnp.float32 and float(jnp.abs(e[0] - e[1]).max()) > 0.5


def test_patches_are_row_major_and_come_back():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[0, 4].reshape(2, 2, 3), x[0, 2:4, 2:4])
    np.testing.assert_array_equal(unpatchify(tokens, 2, 2, 3), x)
    with pytest.raises(ValueError, match="patch 4 does not divide an image of 4 x 6"):
        patchify(x, 4)


def test_fourier_features_are_fixed_and_reach_a_phase_of_hundreds():
    layer = FourierFeatures(8)
    t = jnp.asarray([0.0, 0.25, -3.0])
    variables = nn.unbox(layer.init(jax.random.key(0), t))
    f = np.asarray(variables["params"]["frequencies"], np.float64)
    assert f.shape == (4,) and 4 < np.abs(f).max() < 64
    angles = 2 * np.pi * np.asarray(t, np.float64)[:, None] * f
    want = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(layer.apply(variables, t), want, atol=1e-4)
    grad = jax.grad(lambda v: layer.apply(v, t).sum())(variables)
    assert not np.any(grad["params"]["frequencies"])
