import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import EDM, PRECONDS, VP, Denoiser, RectifiedFlow, Table

SEEN = {}


def build(kind, **fields):
    return PRECONDS.build({"name": kind} | fields)


def network(params, x, time, cond, *, train, key, inputs, features):
    SEEN.update(x=x, time=time, cond=cond, train=train, key=key, inputs=inputs)
    if params.shape == (2,):
        out = jnp.concatenate([params[0] * x, params[1] * jnp.ones_like(x)], -1)
    else:
        out = params * x
    return (out, {name: x.sum() for name in features}) if features else out


def test_combination_and_what_the_network_sees():
    denoise = Denoiser(EDM(), build("edm"), network)
    x = jnp.full((2, 3, 3, 1), 2.0)
    out = denoise(jnp.float32(1.0), x, jnp.array([0.5, 1.0]), None)
    c_in = np.array([1.4142135624, 0.8944271910])
    np.testing.assert_allclose(SEEN["x"][:, 0, 0, 0], 2 * c_in, rtol=1e-6)
    np.testing.assert_allclose(SEEN["time"], [-0.1732867951, 0], atol=1e-7)
    want = np.array([0.5, 0.2]) * 2 + np.array([0.3535533906, 0.4472135955]) * 2 * c_in
    np.testing.assert_allclose(out.x0[:, 0, 0, 0], want, rtol=1e-6)
    np.testing.assert_allclose(out.raw, SEEN["x"])
    assert out.variance is None and out.features is None and SEEN["train"] is False


def test_scalar_time_serves_the_batch_and_labels_become_a_dict():
    denoise = Denoiser(Table(), build("eps"), network)
    x = jnp.ones((3, 2, 2, 1), jnp.bfloat16)
    labels = jnp.array([1, 2, 3])
    out = denoise(jnp.float32(0.5), x, 1000, labels, train=True, inputs={"skip": 1.0})
    np.testing.assert_array_equal(SEEN["time"], [999, 999, 999])
    np.testing.assert_array_equal(SEEN["cond"]["label"], labels)
    assert SEEN["train"] is True and SEEN["inputs"] == {"skip": 1.0}
    assert out.x0.dtype == out.raw.dtype == jnp.float32
    each = denoise(jnp.float32(0.5), x, jnp.full((3,), 1000.0), {"label": labels})
    np.testing.assert_array_equal(out.x0, each.x0)


def test_learned_range_and_features():
    denoise = Denoiser(Table(), build("eps"), network)
    x = jnp.ones((2, 2, 2, 3))
    out = denoise(jnp.array([0.5, 7.0]), x, 10, features=("mid",))
    assert out.raw.shape == out.variance.shape == x.shape
    np.testing.assert_array_equal(out.variance, 7 * jnp.ones_like(x))
    np.testing.assert_array_equal(out.raw, 0.5 * x)
    assert float(out.features["mid"]) == 24
    bad = Denoiser(Table(), build("eps"), lambda *a, **k: jnp.ones((2, 2, 2, 4)))
    with pytest.raises(UserError, match="3 or 6 channels"):
        bad(None, x, 10)


def test_each_sample_depends_on_itself_alone():
    denoise = jax.jit(Denoiser(VP(), build("v"), network))
    x = jax.random.normal(jax.random.key(0), (4, 5, 2))  # a motion: no image axes needed
    t = jnp.array([0.1, 0.2, 0.5, 1.0])
    whole = denoise(jnp.float32(0.3), x, t).x0
    for i in range(4):
        alone = denoise(jnp.float32(0.3), x[i : i + 1], t[i : i + 1]).x0
        np.testing.assert_allclose(whole[i], alone[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["velocity", "x0", "v", "edm"])
def test_gradients_are_finite_at_both_ends(kind):
    denoise = Denoiser(RectifiedFlow(), build(kind), network)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 1))

    def loss(p, x):
        return jnp.sum(denoise(p, x, jnp.array([0.0, 1.0])).x0 ** 2)

    for g in jax.grad(loss, (0, 1))(jnp.float32(0.3), x):
        assert np.all(np.isfinite(g))


def test_meaningless_pairs_are_refused_when_built():
    with pytest.raises(UserError, match="consistency"):
        Denoiser(RectifiedFlow(), build("consistency"), network)
