"""Every implementation of attention against a float64 one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.layers.attention import SelfAttention, attention
from genjax.layers.splash import splash_attention
from genjax.parallel import MeshSpec, using


def reference(q, k, v, mask=None, bias=None, causal=False, scale=None):
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    logits = np.einsum("blhd,bmhd->bhlm", q, k) * (scale or q.shape[-1] ** -0.5)
    logits = logits if bias is None else logits + np.asarray(bias, np.float64)
    if causal:
        logits = np.where(np.tri(*logits.shape[-2:], dtype=bool), logits, -np.inf)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhlm,bmhd->blhd", weights / weights.sum(-1, keepdims=True), v)


def arrays(b=2, l=6, m=6, h=3, d=8, seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((b, n, h, d)).astype(np.float32) for n in (l, m, m))
    mask = rng.random((b, 1, l, m)) < 0.7
    mask[..., 0] = True
    return q, k, v, mask, rng.standard_normal((1, h, l, m)).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", ["auto", "plain", "xla"])
def test_masks_biases_and_causality(masked, biased, causal, implementation):
    q, k, v, mask, bias = arrays()
    want = reference(q, k, v, mask if masked else None, bias if biased else None, causal)
    mask, bias = (jnp.asarray(a) if used else None for a, used in ((mask, masked), (bias, biased)))
    if implementation == "xla":  # what cuDNN's kernel stands behind, where there is no GPU
        found = jax.nn.dot_product_attention(
            q, k, v, bias, mask, is_causal=causal, implementation="xla"
        )
    else:
        found = attention(
            *map(jnp.asarray, (q, k, v)),
            mask=mask,
            bias=bias,
            causal=causal,
            implementation=implementation,
        )
    np.testing.assert_allclose(found, want, atol=2e-6)


def test_scale_cross_attention_and_half_precision():
    q, k, v, *_ = arrays(l=4, m=9)
    found = attention(*map(jnp.asarray, (q, k, v)), scale=0.5)
    np.testing.assert_allclose(found, reference(q, k, v, scale=0.5), atol=2e-6)
    half = [jnp.asarray(a, jnp.bfloat16) for a in (30 * q, k, v)]
    found = attention(*half)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), reference(*(np.asarray(a, np.float32) for a in half)), atol=0.08
    )


@pytest.mark.parametrize("causal", [False, True])
def test_splash_equals_plain_in_value_and_gradient(causal):
    """The kernel itself runs, interpreted; a head dimension of 72 is padded."""
    q, k, v, *_ = map(jnp.asarray, arrays(b=1, l=256, m=256, h=2, d=72))
    weight = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def value(f):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(weight * f(*a)), argnums=(0, 1, 2)))(
            q, k, v
        )

    plain = value(lambda *a: attention(*a, causal=causal, implementation="plain"))
    splash = value(lambda *a: splash_attention(*a, causal=causal, scale=72**-0.5, interpret=True))
    np.testing.assert_allclose(splash[0], plain[0], rtol=1e-5)
    for a, b in zip(splash[1], plain[1]):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_splash_sees_what_a_known_mask_shows(causal):
    q, k, v, *_ = map(jnp.asarray, arrays(b=1, l=256, m=256, h=2, d=16))
    distance = np.arange(256)[:, None] - np.arange(256)
    mask = (np.abs(distance) < 20) | (distance == 100)
    found = splash_attention(q, k, v, causal=causal, scale=0.25, mask=mask, interpret=True)
    want = reference(q, k, v, mask=mask, causal=causal)
    np.testing.assert_allclose(found, want, atol=5e-6)


@pytest.mark.parametrize(
    "spec", [MeshSpec(data=2, tensor=4), MeshSpec(data=2, tensor=2, context=2)]
)
def test_splash_is_split_over_batch_heads_and_queries(spec):
    mesh = spec.build()
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    q, k, v = jax.device_put(arrays(b=2, l=256, m=128, h=4, d=8)[:3], everywhere)

    def local(q, k, v):
        with using(mesh):
            return splash_attention(q, k, v, causal=False, scale=1.0, interpret=True)

    found = jax.jit(local)(q, k, v)
    np.testing.assert_allclose(found, reference(q, k, v, scale=1.0), atol=5e-6)
    rows = 256 // mesh.shape["context"]
    shape = (1, rows, 4 // mesh.shape["tensor"], 8)
    assert {s.data.shape for s in found.addressable_shards} == {shape}


def test_what_a_kernel_cannot_do_is_refused():
    q, k, v, mask, _ = map(jnp.asarray, arrays())
    with pytest.raises(ValueError, match="'flash' is none of auto"):
        attention(q, k, v, implementation="flash")
    with pytest.raises(ValueError, match="cudnn needs float16 or bfloat16"):
        attention(q, k, v, implementation="cudnn")
    with pytest.raises(ValueError, match="lengths that 128 divides, not 6 and 6"):
        attention(q, k, v, implementation="splash")
    q, k, v, mask, _ = map(jnp.asarray, arrays(l=128, m=128))
    with pytest.raises(ValueError, match="no bias, no mask but a NumPy array"):
        attention(q, k, v, mask=mask, implementation="splash")


def test_qk_norm_bounds_the_logits():
    x = 100 * jax.random.normal(jax.random.key(0), (1, 5, 16))
    module = SelfAttention(heads=2, qk_norm=True)
    variables = module.init(jax.random.key(1), x)
    found = module.apply(variables, x)
    np.testing.assert_allclose(found, module.apply(variables, 7 * x) / 7, rtol=1e-4, atol=1e-3)
    plain = SelfAttention(heads=2)
    params = {k: v for k, v in variables["params"].items() if not k.endswith("norm")}
    assert not np.allclose(found, plain.apply({"params": params}, x), atol=1e-2)
