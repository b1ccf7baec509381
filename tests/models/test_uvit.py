"""U-ViT: the paper's sizes, skips that are joined, scaled and left out, masks, features."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten, nested
from genjax.models import MODELS

TINY = MODELS.build(
    {"name": "uvit", "patch": 2, "width": 16, "depth": 5, "heads": 2, "num_classes": 3}
)


def filled(module=TINY, shape=(8, 8, 3)):
    x = jnp.zeros((1, *shape))
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1)))["params"]
    rng = np.random.default_rng(0)
    flat = {
        k: np.float32(k.endswith("scale") + 0.2 * rng.standard_normal(v.shape))
        for k, v in flatten(shapes).items()
    }
    return {"params": nested(flat)}


def batch(b=2):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((b, 8, 8, 3), dtype=np.float32)
    return jnp.asarray(x), jnp.linspace(10.0, 800.0, b), jnp.arange(b)


def count(fields, shape):
    module = MODELS.build({"name": "uvit", **fields})
    x = jnp.zeros((1, *shape))
    tree = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1), jnp.zeros(1, int))
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("variant", "classes", "shape", "millions"),
    [
        ("S/2", 0, (32, 32, 3), 44),
        ("S-deep/2", 0, (32, 32, 4), 58),
        ("M/4", 1000, (64, 64, 3), 131),
        ("L/2", 1000, (32, 32, 4), 287),
        ("H/2", 1000, (32, 32, 4), 501),
    ],
)
def test_published_sizes(variant, classes, shape, millions):
    found = count({"variant": variant, "num_classes": classes, "null_label": False}, shape)
    assert round(found / 1e6) == millions


def test_parameter_count_by_hand():
    d, h = 512, 2048
    block = 3 * d * d + d * d + d + 2 * d * h + h + d + 4 * d
    whole = 13 * block + 6 * (2 * d * d + d)  # joins
    whole += 12 * d + d + 257 * d + 2 * d + 12 * d + 12 + 9 * 9 + 3
    assert count({"variant": "S/2"}, (32, 32, 3)) == whole


def test_skips_are_joined_last_first_and_scaled():
    variables, (x, t, y) = filled(), batch()
    n = TINY.num_skips
    names = [f"{kind}_{i}" for kind in ("skip", "backbone") for i in range(n)]
    scale = jnp.array([0.3, 0.7])

    @jax.jit
    def fn(scale):
        return TINY.apply(variables, x, t, y, inputs={"skip_scale": scale}, features=names)

    out, found = fn(scale)
    plain, full = fn(jnp.ones(n))
    np.testing.assert_allclose(jax.jit(TINY.apply)(variables, x, t, y), plain, rtol=1e-6, atol=1e-6)
    for i in range(n):
        np.testing.assert_allclose(found[f"skip_{i}"], scale[i] * full[f"skip_{i}"], rtol=1e-6)
    # The last block of the first half leaves the first skip to be joined: scales of the others
    # change nothing before it.
    np.testing.assert_array_equal(found["backbone_1"], full["backbone_1"])
    assert np.abs(found["backbone_0"] - full["backbone_0"]).max() > 1e-3
    assert np.abs(out - plain).max() > 1e-3


def test_a_scale_is_a_scale_of_the_joins_weights():
    variables, (x, t, y) = filled(), batch()
    scale = np.array([0.0, 0.6], np.float32)
    flat = {k: np.array(v) for k, v in flatten(variables["params"]).items()}
    for i, factor in enumerate(scale[::-1]):
        flat["up/join/kernel"][i, TINY.width :] *= factor
    apply = jax.jit(TINY.apply)
    found = apply(variables, x, t, y, inputs={"skip_scale": scale})
    np.testing.assert_allclose(
        found, apply({"params": nested(flat)}, x, t, y), rtol=1e-5, atol=1e-5
    )


def test_a_masked_block_only_joins():
    variables, (x, t, y) = filled(), batch()
    apply = jax.jit(lambda v, mask: TINY.apply(v, x, t, y, inputs={"block_mask": mask}))
    plain = TINY.apply(variables, x, t, y)
    np.testing.assert_allclose(apply(variables, jnp.ones(5)), plain, rtol=1e-5, atol=1e-5)
    places = [("down", 0), ("down", 1), ("mid", 0), ("up", 0), ("up", 1)]
    for number, (run, i) in enumerate(places):
        flat = {k: np.array(v) for k, v in flatten(variables["params"]).items()}
        for leaf in (
            "attention/out/kernel",
            "attention/out/bias",
            "mlp/out/kernel",
            "mlp/out/bias",
        ):
            flat[f"{run}/{leaf}"][i] = 0
        want = TINY.apply({"params": nested(flat)}, x, t, y)
        found = apply(variables, jnp.ones(5).at[number].set(0))
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
        assert np.abs(found - plain).max() > 1e-3
    assert TINY.num_blocks((8, 8, 3)) == 5


def test_labels_no_label_and_bad_input():
    variables, (x, t, y) = filled(), batch()
    found = TINY.apply(variables, x, t, y)
    np.testing.assert_array_equal(found, TINY.apply(variables, x, t, {"label": y}))
    none = TINY.apply(variables, x, t, None)
    np.testing.assert_array_equal(none, TINY.apply(variables, x, t, jnp.full(2, 3)))
    assert np.abs(found - none).max() > 1e-3
    with pytest.raises(ValueError, match="is none of skip_i and backbone_i with i < 2"):
        TINY.apply(variables, x, t, y, features=("skip_2",))
    for wrong in ({"depth": 4}, {"depth": 1}, {"width": 15}, {"heads": 3}, {"attention": "x"}):
        with pytest.raises(
            ValueError, match=next(iter(wrong)) if "heads" not in wrong else "width"
        ):
            dataclasses.replace(TINY, **wrong)


def test_operations_of_a_block_are_those_of_the_sheets_counting():
    flops = TINY.forward_flops((8, 8, 3))
    d, l = 16, 18
    block = l * (4 * d * d + 2 * d * 64) + 2 * l * l * d
    whole = 5 * block + 2 * l * 2 * d * d + 2 * 16 * 12 * d + 9 * 64 * 9
    assert flops == 2 * whole
