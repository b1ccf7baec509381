"""Magnitude-preserving layers: unit variance, the published constants, forced normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.layers.magnitude import (
    MPConv,
    MPFourier,
    MPLabelEmbedding,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    project,
    used_weight,
)


def gaussian(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def second_moment(x):
    return float(jnp.mean(jnp.square(x.astype(jnp.float32))))


def made(layer, *args, seed=0):
    variables = nn.unbox(layer.init(jax.random.key(seed), *args))
    return variables, layer.apply(variables, *args)


def test_silu_is_divided_by_the_root_of_its_second_moment():
    n, w = np.polynomial.hermite_e.hermegauss(200)
    moment = np.sum(w * (n / (1 + np.exp(-n))) ** 2) / w.sum()
    assert np.sqrt(moment) == pytest.approx(0.59646921, abs=1e-8)
    assert float(mp_silu(jnp.float32(2.0))) == pytest.approx(2 / (1 + np.exp(-2)) / 0.596, rel=1e-6)
    assert second_moment(mp_silu(gaussian(0, 400_000))) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9])
def test_sum_keeps_unit_variance(t):
    a, b = gaussian(1, 200_000), gaussian(2, 200_000)
    s = mp_sum(a, b, t)
    assert second_moment(s) == pytest.approx(1, abs=0.02)
    want = ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)
    np.testing.assert_allclose(s, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [0.5, 0.8])
def test_concatenation_keeps_unit_variance_and_shares_as_asked(t):
    a, b = gaussian(3, 4000, 48), gaussian(4, 4000, 16)
    c = mp_cat(a, b, t)
    assert c.shape == (4000, 64) and second_moment(c) == pytest.approx(1, abs=0.02)
    left, right = (float(jnp.sum(jnp.square(part))) for part in (c[:, :48], c[:, 48:]))
    assert right / left == pytest.approx((t / (1 - t)) ** 2, rel=0.03)  # not by channels
    np.testing.assert_allclose(mp_cat(a, a), jnp.concatenate([a, a], -1), rtol=1e-6)


def test_normalize_adds_epsilon_to_the_root_mean_square():
    x = gaussian(5, 3, 7) * 1e-3
    rms = np.sqrt(np.mean(np.square(np.float64(x)), axis=-1, keepdims=True))
    np.testing.assert_allclose(normalize(x), x / (rms + 1e-4), rtol=1e-5)
    half = (gaussian(6, 3, 7) * 300).astype(jnp.bfloat16)
    assert normalize(half).dtype == jnp.bfloat16
    assert second_moment(normalize(half)) == pytest.approx(1, abs=0.01)


def test_weights_are_normalised_per_output_unit():
    raw = gaussian(7, 3, 3, 5, 4) * jnp.array([0.1, 1.0, 3.0, 10.0])
    flat = np.float64(raw).reshape(45, 4)
    want = flat / (np.linalg.norm(flat, axis=0) / np.sqrt(45) + 1e-4) * 0.7 / np.sqrt(45)
    np.testing.assert_allclose(used_weight(raw, 0.7).reshape(45, 4), want, rtol=1e-5)
    lengths = np.linalg.norm(used_weight(raw).reshape(45, 4), axis=0)
    np.testing.assert_allclose(lengths, 1, rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_and_convolution_keep_unit_variance(dtype):
    _, y = made(MPLinear(256, dtype=dtype), gaussian(8, 500, 300))
    assert y.dtype == dtype and second_moment(y) == pytest.approx(1, abs=0.02)
    _, y = made(MPConv(128, dtype=dtype), gaussian(9, 2, 24, 24, 32))
    inner = y[:, 1:-1, 1:-1]  # zeros around the image take variance from its border
    assert y.dtype == dtype and second_moment(inner) == pytest.approx(1, abs=0.02)
    assert second_moment(y[:, 0]) == pytest.approx(2 / 3, abs=0.05)


def test_convolution_takes_frames_and_gains_scale_the_weight():
    x = gaussian(10, 2, 3, 6, 6, 4)
    layer = MPConv(5)
    variables, y = made(layer, x)
    assert y.shape == (2, 3, 6, 6, 5)
    np.testing.assert_allclose(y[1, 2], layer.apply(variables, x[1, 2]), atol=1e-5)
    np.testing.assert_allclose(layer.apply(variables, x, 0.25), y / 4, rtol=1e-5, atol=1e-6)
    assert not np.any(layer.apply(variables, x, jnp.float32(0)))


def test_gradients_are_those_of_the_plain_formula():
    x, layer = gaussian(11, 4, 6), MPLinear(3)
    variables, _ = made(layer, x)

    def plain(raw, gain):
        w = raw / (jnp.linalg.norm(raw, axis=0) / np.sqrt(6) + 1e-4) * gain / np.sqrt(6)
        return jnp.sum(jnp.sin(x @ w))

    def ours(raw, gain):
        return jnp.sum(jnp.sin(layer.apply({"params": {"kernel": raw}}, x, gain)))

    raw = variables["params"]["kernel"]
    for want, found in zip(*(jax.grad(f, (0, 1))(raw, jnp.float32(0.6)) for f in (plain, ours))):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
    along = jnp.sum(jax.grad(ours)(raw, jnp.float32(1)) * raw, axis=0)
    np.testing.assert_allclose(along, 0, atol=1e-3)  # the length of a raw weight does not matter


def test_fourier_features_have_unit_second_moment_and_are_constants():
    a = jnp.linspace(-1.5, 1.5, 200)
    variables, y = made(MPFourier(512), a)
    assert second_moment(y) == pytest.approx(1, abs=0.02)
    p = variables["params"]
    np.testing.assert_allclose(
        y, np.sqrt(2) * np.cos(np.outer(a, p["freqs"]) + p["phases"]), atol=1e-5
    )
    assert float(p["freqs"].std()) == pytest.approx(2 * np.pi, rel=0.1)
    assert p["phases"].min() >= 0 and 6 < p["phases"].max() <= 2 * np.pi
    grads = jax.grad(lambda p: jnp.sum(MPFourier(512).apply({"params": p}, a) ** 2))(p)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_labels_are_the_linear_map_of_scaled_one_hot_rows():
    label = jnp.array([0, 3, 9, 10, -1])
    variables, y = made(MPLabelEmbedding(10, 64), label)
    one_hot = np.sqrt(10) * np.eye(10)[[0, 3, 9]]
    want = one_hot @ used_weight(variables["params"]["table"])
    np.testing.assert_allclose(y[:3], want, rtol=1e-5)
    assert not np.any(y[3:])  # no label, and none that there is
    every = MPLabelEmbedding(10, 64).apply(variables, jnp.arange(10))
    assert second_moment(every) == pytest.approx(1, abs=0.02)


def test_projection_normalises_raw_weights_alone_also_stacked_ones():
    lengths = jnp.array([1.0, 5.0])[:, None, None, None, None]
    tree = {
        "a": {"kernel": gaussian(12, 4, 6) * 3, "gain": jnp.float32(0.3)},
        "stack": {"kernel": gaussian(13, 2, 3, 3, 4, 6) * lengths},
        "stack2": {"kernel": gaussian(14, 3, 4, 6) * 2},
        "label": {"table": gaussian(15, 5, 8)},
        "fourier": {"freqs": gaussian(16, 8)},
    }  # fmt: skip
    done = project(tree)
    np.testing.assert_array_equal(done["fourier"]["freqs"], tree["fourier"]["freqs"])
    assert done["a"]["gain"] == tree["a"]["gain"]

    def rms(x, axes):
        return np.sqrt(np.mean(np.square(x), axis=axes))

    for leaf, axes in (
        (done["a"]["kernel"], (0,)),
        (done["stack"]["kernel"], (1, 2, 3)),
        (done["stack2"]["kernel"], (1,)),
        (done["label"]["table"], (0,)),
    ):
        np.testing.assert_allclose(rms(leaf, axes), 1, rtol=3e-4)
    for name in ("a", "stack", "stack2"):  # what a layer computes stays
        axes = tuple(range(tree[name]["kernel"].ndim % 2, tree[name]["kernel"].ndim - 1))
        before, after = (normalize(t[name]["kernel"], axes) for t in (tree, done))
        np.testing.assert_allclose(after, before, rtol=2e-4)


def test_parameters_carry_logical_axes():
    x = gaussian(17, 1, 4, 4, 8)
    conv = jax.eval_shape(MPConv(6).init, jax.random.key(0), x)["params"]["kernel"]
    assert conv.names == (None, None, None, "channels")
    linear = jax.eval_shape(MPLinear(6, ("embed", "heads")).init, jax.random.key(0), x)
    assert linear["params"]["kernel"].names == ("embed", "heads")
