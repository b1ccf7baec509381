"""Encoding, decoding and bits/dim through a whole task whose network is a known denoiser."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from genjax.core import keys as keys_lib
from genjax.core.errors import UserError
from genjax.solvers.likelihood import ODE, Trace
from genjax.tasks.latents import bits_per_dim, decode, encode, slerp, temper
from tests.tasks.known import PARAMS, STD, known


@pytest.mark.parametrize("process", ["vp", "subvp", "ve", "edm", "flow"])
def test_decoding_undoes_encoding(process):
    made = known(process)
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 1)) * 0.4 + 0.1
    there = jax.jit(lambda x: encode(made, PARAMS, {}, x))(x)
    again = jax.jit(lambda z: decode(made, PARAMS, {}, z))(there.x)
    assert there.ok.all() and again.ok.all() and np.all(np.asarray(there.nfe) > 10)
    np.testing.assert_allclose(again.x, x, atol=1e-3)
    first, last = ODE().span(made.process)
    alpha, sigma = made.process.alpha(first), made.process.sigma(first)
    std, start = np.hypot(alpha * STD, sigma), made.process.start_std(np.float64(last))
    white = (np.asarray(x) - alpha * 0.1) / std
    np.testing.assert_allclose(there.x / start, white, atol=0.02)


def test_the_condition_is_used():
    made = known(classes=10)
    x = jnp.full((2, 2, 2, 1), 0.5)
    labels = {"label": jnp.array([0, 4])}
    z = encode(made, PARAMS, {}, x, labels).x
    assert z[0, 0, 0, 0] == pytest.approx((0.5 - 0.1) / STD, abs=0.01)
    assert z[1, 0, 0, 0] == pytest.approx(0.0, abs=0.01)
    null = encode(made, PARAMS, {}, x).x
    np.testing.assert_allclose(null, (0.5 - 0.1 - 1.0) / STD, atol=0.01)


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_bits_of_stored_images(data_range):
    """Against the exact flow map of the dequantised pixels from eps = 1e-5 to the prior."""
    made = known(data_range=data_range)
    grey = np.random.default_rng(0).integers(0, 17, (5, 2, 2, 1)).astype(np.uint8)
    keys = keys_lib.per_sample(jax.random.key(3), jnp.arange(5))
    bits, found = jax.jit(lambda g, k: bits_per_dim(made, PARAMS, g, k, trace=Trace("exact")))(
        grey, keys
    )
    low, high = data_range
    u = jax.vmap(lambda k: jax.random.uniform(keys_lib.fold(k, "dequantise"), (2, 2, 1)))(keys)
    x = low + (high - low) * (grey + np.asarray(u)) / 17
    alpha, sigma = (f(np.array([1e-5, 1.0])) for f in (made.process.alpha, made.process.sigma))
    v = (alpha * STD) ** 2 + sigma**2
    z = alpha[1] * 0.1 + np.sqrt(v[1] / v[0]) * (x - alpha[0] * 0.1)
    logp = (norm.logpdf(z) + 0.5 * np.log(v[1] / v[0])).sum((1, 2, 3))
    want = -logp / (4 * np.log(2)) + np.log2(17 / (high - low))
    np.testing.assert_allclose(bits, want, atol=2e-4)
    # A diagonal Jacobian's Rademacher estimate is exact, so one probe says the same.
    probed, _ = bits_per_dim(made, PARAMS, grey[2:4], keys[2:4])
    np.testing.assert_allclose(probed, bits[2:4], atol=1e-3)
    assert found.ok.all()


def test_a_codec_has_no_bits_of_pixels():
    made = known()
    with pytest.raises(UserError, match="is none of pixels; it is defined"):
        bits_per_dim(
            dataclasses.replace(made, latents=True),
            PARAMS,
            np.zeros((1, 2, 2, 1), np.uint8),
            keys_lib.per_sample(jax.random.key(0), jnp.arange(1)),
        )


def test_without_a_null_label_the_label_must_be_given():
    made = known(classes=10, model={"null_label": False}, condition_dropout=0.0)
    with pytest.raises(UserError, match="no null label"):
        encode(made, PARAMS, {}, jnp.zeros((1, 2, 2, 1)))


def test_spherical_interpolation():
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-6)
    w = np.array([0.1, 0.5, 0.8], np.float32)
    mixed = slerp(a, b, w)
    for i in range(3):
        u, v = np.ravel(a[i]), np.ravel(b[i])
        angle = np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        want = (np.sin((1 - w[i]) * angle) * u + np.sin(w[i] * angle) * v) / np.sin(angle)
        np.testing.assert_allclose(np.ravel(mixed[i]), want, atol=1e-5)
    right = jnp.array([[2.0, 0, 0]]), jnp.array([[0, 2.0, 0]])
    assert np.linalg.norm(slerp(*right, 0.3)) == pytest.approx(2, rel=1e-6)
    np.testing.assert_allclose(slerp(a, 3 * a, 0.5), 2 * a, rtol=1e-5)
    np.testing.assert_allclose(slerp(a, a, 0.5), a, rtol=1e-5)
    np.testing.assert_allclose(temper(a, 0.7), 0.7 * a, rtol=1e-6)
