"""DiT: the sheet's parameter counts, operations and initialisation; scan, masks, features."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.tree import flatten, size
from genjax.models import MODELS
from genjax.models.dit import VARIANTS, DiT

PARAMS = {
    "S/2": 32_865_056, "S/4": 32_920_448, "S/8": 33_142_016,
    "B/2": 130_315_808, "B/4": 130_426_496, "B/8": 130_869_248,
    "L/2": 457_840_672, "L/4": 457_988_224, "L/8": 458_578_432,
    "XL/2": 674_834_720, "XL/4": 675_000_704, "XL/8": 675_664_640,
}  # fmt: skip
GMAC = {
    "S/2": 6.056, "S/4": 1.413, "S/8": 0.358, "B/2": 23.005, "B/4": 5.565, "B/8": 1.418,
    "L/2": 80.698, "L/4": 19.696, "L/8": 5.011, "XL/2": 118.621, "XL/4": 29.044, "XL/8": 7.392,
}  # fmt: skip
TINY = DiT(patch=2, width=32, depth=3, heads=2, num_classes=5)


def abstract(module, shape=(32, 32, 4), labels=True):
    label = jnp.zeros(1, jnp.int32) if labels else None
    args = jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), label
    return jax.eval_shape(module.init, *args)["params"]


def filled(module, shape=(8, 8, 4), std=0.2):
    """Returns parameters of which none is zero, as the gates of a fresh DiT are."""
    shapes = nn.unbox(abstract(module, shape))
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda p: std * rng.standard_normal(p.shape, dtype=np.float32), shapes)
    return {"params": values}


def batch(b=2, shape=(8, 8, 4)):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((b, *shape), dtype=np.float32)
    return jnp.asarray(x), jnp.linspace(3.0, 999.0, b), jnp.arange(b)


@pytest.mark.parametrize("variant", PARAMS)
def test_parameters_and_operations_are_the_sheet_s(variant):
    module = MODELS.build({"name": "dit", "variant": variant})
    assert size(nn.unbox(abstract(module))) == PARAMS[variant]
    assert round(module.forward_flops((32, 32, 4)) / 2e9, 3) == GMAC[variant]


def test_operations_at_512_and_all_variants_are_there():
    xl = DiT(**VARIANTS["XL/2"])
    assert round(xl.forward_flops((64, 64, 4)) / 2e9, 3) == 524.538
    assert VARIANTS.keys() == PARAMS.keys()


def test_operations_are_those_of_the_program():
    """XLA counts a scan's body once, so the unrolled network is compiled and counted."""
    module = dataclasses.replace(TINY, unroll=3, width=128, heads=2, depth=3)
    x, t, y = batch(1, (16, 16, 4))
    variables = nn.unbox(abstract(module, (16, 16, 4)))
    lowered = jax.jit(module.apply).lower({"params": variables}, x, t, y)
    counted = lowered.compile().cost_analysis()["flops"]
    assert 1.0 <= counted / module.forward_flops((16, 16, 4)) < 1.08


def test_initialisation_is_the_sheet_s():
    module = DiT(patch=2, width=64, depth=3, heads=4, num_classes=9)
    x, t, y = batch(4)
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(0), x, t, y))
    p = flatten(variables["params"])
    for name, fans in {
        "blocks/attention/qkv/kernel": 4 * 64,
        "blocks/attention/out/kernel": 2 * 64,
        "blocks/mlp/in/kernel": 5 * 64,
        "blocks/mlp/out/kernel": 5 * 64,
        "patch_embed/kernel": 16 + 64,
    }.items():
        bound = (6 / fans) ** 0.5
        assert 0.98 * bound < float(jnp.abs(p[name]).max()) <= bound, name
        assert abs(float(p[name].std()) / (bound / 3**0.5) - 1) < 0.03, name
    for name in ("time/in/kernel", "time/out/kernel", "label/table"):
        assert abs(float(p[name].std()) / 0.02 - 1) < 0.1, name
    assert p["label/table"].shape == (10, 64)
    layers = p["blocks/mlp/in/kernel"]
    assert not np.allclose(layers[0], layers[1])
    for name in p:
        if name.endswith("bias") or name.startswith(("final", "blocks/modulation")):
            assert not np.any(p[name]), name
    distance = jax.jit(jax.value_and_grad(lambda v: jnp.sum(jnp.abs(module.apply(v, x, t, y) - 1))))
    out, grads = distance(variables)
    assert float(out) == x.size * 2  # the output is exactly 0
    moved = {k for k, g in flatten(grads["params"]).items() if np.any(g)}
    assert moved == {"final/kernel", "final/bias"}


def test_parameters_carry_logical_axes():
    boxes = jax.tree.leaves(abstract(TINY), is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(isinstance(b, nn.LogicallyPartitioned) for b in boxes)
    assert all(len(b.names) == len(b.value.shape) for b in boxes)
    qkv = abstract(TINY)["blocks"]["attention"]["qkv"]
    assert qkv["kernel"].names == ("layers", "embed", None, "heads", "kv")
    assert qkv["bias"].names == ("layers", None, "heads", "kv")
    assert abstract(TINY)["label"]["table"].names == ("classes", "embed")


def reference(variables, x, t, y, module):
    """An unscanned DiT in float64, written from the equations on one image of tokens [l, d]."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    d, h = module.width, module.heads
    rows, cols = x.shape[0] // 2, x.shape[1] // 2

    def ln(a):
        return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6)

    def silu(a):
        return a / (1 + np.exp(-a))

    tokens = x.reshape(rows, 2, cols, 2, -1).transpose(0, 2, 1, 3, 4).reshape(rows * cols, -1)
    a = tokens @ p["patch_embed"]["kernel"] + p["patch_embed"]["bias"]
    a = a + module.positions(rows, cols)
    f = np.exp(-np.log(10000) * np.arange(128) / 128)
    e = np.concatenate([np.cos(t * f), np.sin(t * f)])
    e = silu(e @ p["time"]["in"]["kernel"] + p["time"]["in"]["bias"])
    c = e @ p["time"]["out"]["kernel"] + p["time"]["out"]["bias"] + p["label"]["table"][y]
    c = silu(c)
    for i in range(module.depth):
        b = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        m = np.einsum("d,dkm->km", c, b["modulation"]["kernel"]) + b["modulation"]["bias"]
        u = ln(a) * (1 + m[1]) + m[0]
        q, k, v = (
            np.einsum("ld,dshk->slhk", u, b["attention"]["qkv"]["kernel"])
            + (b["attention"]["qkv"]["bias"][:, None])
        )
        w = np.exp(np.einsum("lhk,mhk->hlm", q, k) / np.sqrt(d / h))
        o = np.einsum("hlm,mhk->lhk", w / w.sum(-1, keepdims=True), v)
        o = np.einsum("lhk,hkd->ld", o, b["attention"]["out"]["kernel"])
        a = a + m[2] * (o + b["attention"]["out"]["bias"])
        u = ln(a) * (1 + m[4]) + m[3]
        u = u @ b["mlp"]["in"]["kernel"] + b["mlp"]["in"]["bias"]
        u = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        a = a + m[5] * (u @ b["mlp"]["out"]["kernel"] + b["mlp"]["out"]["bias"])
    m = (c @ p["final_modulation"]["kernel"] + p["final_modulation"]["bias"]).reshape(2, d)
    out = (ln(a) * (1 + m[1]) + m[0]) @ p["final"]["kernel"] + p["final"]["bias"]
    out = out.reshape(rows, cols, 2, 2, -1).transpose(0, 2, 1, 3, 4)
    return out.reshape(x.shape[0], x.shape[1], -1)


def test_forward_equals_the_equations_also_for_images_that_are_not_square():
    x, t, y = batch(2, (4, 8, 3))
    variables = filled(TINY, (4, 8, 3))
    found = TINY.apply(variables, x, t, y)
    assert found.shape == (2, 4, 8, 6) and found.dtype == jnp.float32
    for i in range(2):
        want = reference(variables, np.asarray(x[i]), float(t[i]), int(y[i]), TINY)
        np.testing.assert_allclose(found[i], want, atol=2e-4 * np.abs(want).max())


@pytest.fixture(scope="module")
def gradients():
    """Returns a function: module -> loss and gradients on one batch, cached."""
    x, t, y = batch()
    variables = filled(TINY)

    @functools.cache
    def value(module):
        square = lambda v: jnp.sum(module.apply(v, x, t, y) ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(square))(variables)

    return value


@pytest.mark.parametrize(
    "changes", [*({"remat": r} for r in ("full", "dots", "weights")), {"unroll": 2}, {"unroll": 3}]
)
def test_remat_and_unrolling_change_nothing(changes, gradients):
    want, found = gradients(TINY), gradients(dataclasses.replace(TINY, **changes))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(want[1])):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_labels_may_be_a_dict_an_array_or_absent():
    x, t, y = batch()
    variables = filled(TINY)
    found = TINY.apply(variables, x, t, y)
    np.testing.assert_array_equal(found, TINY.apply(variables, x, t, {"label": y}))
    null = TINY.apply(variables, x, t, jnp.full(2, 5))
    np.testing.assert_array_equal(null, TINY.apply(variables, x, t, None))
    assert np.abs(null - found).max() > 0.01
    without = dataclasses.replace(TINY, null_label=False)
    assert filled(without)["params"]["label"]["table"].shape == (5, 32)
    with pytest.raises(ValueError, match="no null label"):
        without.apply(filled(without), x, t, None)


def test_unconditional():
    module = dataclasses.replace(TINY, num_classes=0)
    assert "label" not in nn.unbox(abstract(module, labels=False))
    x, t, _ = batch()
    assert module.apply(filled(module), x, t).shape == (2, 8, 8, 8)


def test_masked_blocks_are_skipped():
    x, t, y = batch()
    variables = filled(TINY)
    apply = jax.jit(lambda m: TINY.apply(variables, x, t, y, inputs={"block_mask": m}))
    np.testing.assert_allclose(apply(jnp.ones(3)), TINY.apply(variables, x, t, y), atol=1e-4)
    kept = jnp.array([0, 2])
    blocks = jax.tree.map(lambda p: p[kept], variables["params"]["blocks"])
    smaller = {"params": variables["params"] | {"blocks": blocks}}
    want = dataclasses.replace(TINY, depth=2).apply(smaller, x, t, y)
    np.testing.assert_allclose(apply(jnp.array([1.0, 0.0, 1.0])), want, atol=1e-4)


def test_features_are_the_tokens_after_a_block():
    x, t, y = batch()
    variables = filled(TINY)
    out, features = TINY.apply(variables, x, t, y, features=("block_0", "block_2"))
    np.testing.assert_array_equal(out, TINY.apply(variables, x, t, y))
    assert features.keys() == {"block_0", "block_2"} and features["block_0"].shape == (2, 16, 32)
    first = jax.tree.map(lambda p: p[:1], variables["params"]["blocks"])
    one = dataclasses.replace(TINY, depth=1)
    _, only = one.apply(
        {"params": variables["params"] | {"blocks": first}}, x, t, y, features=("block_0",)
    )
    np.testing.assert_allclose(only["block_0"], features["block_0"], atol=1e-5)
    for wrong in ("block_3", "mlp_0", "block_"):
        with pytest.raises(ValueError, match=r"is none of block_0 \.\.\. block_2"):
            TINY.apply(variables, x, t, y, features=(wrong,))


def test_half_precision_computes_in_bfloat16_and_returns_float32():
    x, t, y = batch()
    half = dataclasses.replace(TINY, dtype="bfloat16", qk_norm=True)
    variables = filled(half, std=0.1)
    found = half.apply(variables, x, t, y)
    want = dataclasses.replace(half, dtype="float32").apply(variables, x, t, y)
    assert found.dtype == jnp.float32
    error = np.abs(found - want).max() / np.abs(want).max()
    assert 1e-5 < error < 0.03
    hlo = jax.jit(half.apply).lower(variables, x, t, y).as_text()
    assert "dot_general" in hlo and "bf16" in hlo
    # Times 996 and 997 are one in bfloat16; the embedding keeps them apart.
    a, b = (half.apply(variables, x, jnp.full(2, t), y) for t in (996.0, 997.0))
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 5}, "network: heads: 5 heads do not divide width 384"),
        ({"width": 6, "heads": 1}, "multiple of 4"),
        ({"remat": "half"}, "remat: 'half' is no policy"),
        ({"dtype": "float16"}, "dtype: 'float16' is neither"),
        ({"attention": "flash"}, "attention: 'flash' is none of"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_fields_out_of_range_are_named(fields, words):
    with pytest.raises(UserError, match=words):
        MODELS.build({"name": "dit", **fields}, "network")


def test_patch_must_divide_the_image():
    with pytest.raises(ValueError, match="patch 2 does not divide an image of 7 x 8"):
        TINY.apply(filled(TINY), jnp.zeros((1, 7, 8, 4)), jnp.zeros(1))
