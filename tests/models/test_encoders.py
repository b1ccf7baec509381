"""CLIP, DINOv2 and LPIPS without their references: shapes, sizes, causality, identities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import tree
from genjax.models import MODELS
from genjax.models.clip import CLIP
from genjax.models.dinov2 import DINOv2
from genjax.models.lpips import LPIPS

TINY = CLIP(
    image_size=16,
    patch=8,
    image_width=16,
    image_depth=2,
    image_heads=2,
    image_hidden=24,
    vocabulary=50,
    positions=10,
    text_width=12,
    text_depth=2,
    text_heads=2,
    text_hidden=20,
    end=49,
    embedding=6,
)


@pytest.fixture(scope="module")
def clip():
    x, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 10), jnp.int32)
    return jax.jit(TINY.init)(jax.random.key(0), x, tokens)


def count(name, variant, *inputs):
    module = MODELS.build({"name": name, "variant": variant})
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return sum(np.prod(s.shape) for s in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "variant, side, published", [("b32", 224, 151_277_313), ("b16", 224, 149_620_737)]
)
def test_published_sizes_of_clip(variant, side, published):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    assert count("clip", variant, x, jax.ShapeDtypeStruct((1, 77), jnp.int32)) == published


@pytest.mark.parametrize(
    "variant, side, published", [("l14", 224, 427_616_513), ("l14-336", 336, 427_944_193)]
)
def test_published_sizes_of_large_clip(variant, side, published):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    assert count("clip", variant, x, jax.ShapeDtypeStruct((1, 77), jnp.int32)) == published


@pytest.mark.parametrize("variant, published", [("s", 22_056_576), ("b", 86_580_480)])
def test_published_sizes_of_dinov2(variant, published):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert count("dinov2", variant, x) == published


def test_a_token_does_not_see_what_follows(clip):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 49, (1, 10)), jnp.int32)
    states = lambda t: TINY.apply(clip, t, method=CLIP.encode_text)["last"]  # noqa: E731
    changed = states(tokens.at[0, 6].set(7))
    np.testing.assert_allclose(changed[:, :6], states(tokens)[:, :6], atol=1e-6)
    assert float(jnp.abs(changed[:, 6:] - states(tokens)[:, 6:]).max()) > 1e-3


def test_text_is_read_at_its_first_end_token(clip):
    encode = lambda t: TINY.apply(clip, jnp.asarray([t]), method=CLIP.encode_text)  # noqa: E731
    out = encode([1, 2, 3, 49, 49, 49])
    np.testing.assert_array_equal(out["pooled"], out["last"][:, 3])
    again = encode([1, 2, 3, 49, 0, 5])
    np.testing.assert_allclose(again["embedding"], out["embedding"], atol=1e-6)
    # Without one, at the largest id, as old configurations have it.
    old = TINY.clone(end=7).apply(clip, jnp.asarray([[1, 9, 3]]), method=CLIP.encode_text)
    np.testing.assert_array_equal(old["pooled"], old["last"][:, 1])


def test_embeddings_are_unit_and_inputs_are_checked(clip):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
    out = TINY.apply(clip, x, jnp.zeros((3, 4), jnp.int32))
    assert out["logits"].shape == (2, 3)
    np.testing.assert_allclose(jnp.linalg.norm(out["image"], axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="reads 16x16"):
        TINY.apply(clip, x[:, :8], method=CLIP.encode_image)
    with pytest.raises(ValueError, match="10 positions"):
        TINY.apply(clip, jnp.zeros((1, 11), jnp.int32), method=CLIP.encode_text)
    half = TINY.clone(dtype="bfloat16").apply(clip, x, method=CLIP.encode_image)
    full = TINY.apply(clip, x, method=CLIP.encode_image)
    assert half["embedding"].dtype == jnp.float32
    np.testing.assert_allclose(half["embedding"], full["embedding"], atol=0.1)


def test_wrong_fields():
    for change in ({"activation": "relu"}, {"patch": 5}, {"text_heads": 5}):
        with pytest.raises(ValueError):
            dataclasses.replace(TINY, **change)
    with pytest.raises(ValueError):
        DINOv2(width=10, heads=3)
    with pytest.raises(ValueError):
        LPIPS("resnet")


def test_dinov2_positions_at_another_grid():
    module = DINOv2(patch=2, width=8, depth=1, heads=2, hidden=8, grid=4, offset=0.0)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    params = tree.flatten(jax.tree.map(lambda a: a, variables["params"]))
    assert all("registers" not in path for path in params)
    out = jax.jit(module.apply)(variables, jnp.ones((1, 12, 4, 3)))
    assert out["patches"].shape == (1, 6 * 2, 8) and out["class"].shape == (1, 8)
    with pytest.raises(ValueError, match="do not divide"):
        module.apply(variables, jnp.ones((1, 9, 8, 3)))


def test_lpips_identity_symmetry_and_gradient():
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 2, 64, 64, 3)).astype(np.float32)
    module = LPIPS("alex")
    variables = jax.jit(module.init)(jax.random.key(0), x, y)
    distance = jax.jit(lambda x, y: module.apply(variables, x, y))
    assert float(jnp.abs(distance(x, x)).max()) < 1e-12 and float(distance(x, y).min()) > 1e-4
    np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-5)
    black = np.full_like(x, -1)
    grad = jax.grad(lambda x: distance(x, black).sum())(jnp.asarray(black))
    assert bool(jnp.isfinite(grad).all())
    with pytest.raises(ValueError, match="one shape"):
        module.apply(variables, x, y[:, :60])
