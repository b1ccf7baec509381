import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten
from genjax.models.parti import VARIANTS, Parti
from genjax.models.parti_blocks import offsets, visibility
from genjax.models.parti_cache import begin, step

TINY = {
    "codes": 11,
    "grid": (4, 4),
    "vocab": 9,
    "text_length": 5,
    "encoder_depth": 2,
    "depth": 2,
    "width": 16,
    "hidden": 32,
    "heads": 2,
    "kernel": 3,
    "dropout": 0.0,
}
TEXT = jnp.array([[3, 4, 1, 0, 0], [5, 1, 0, 0, 0], [3, 3, 3, 8, 1]])
CODES = jax.random.randint(jax.random.key(1), (3, 16), 0, 11)


def made(**changes):
    """A tiny network with parameters so large that every part matters."""
    model = Parti(**{**TINY, **changes})
    cond = {"tokens": TEXT} if model.vocab else None
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), CODES, cond))["params"]
    leaves, treedef = jax.tree.flatten(params)
    noise = [jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
    return model, treedef.unflatten([x + 0.3 * z for x, z in zip(leaves, noise)]), cond


@pytest.mark.parametrize(
    ("name", "core", "total"),
    [
        ("350M", 352_321_536, 385_807_360),
        ("750M", 754_974_720, 788_608_000),
        ("3B", 3_019_898_880, 3_087_165_440),
        ("20B", 20_401_094_656, 20_536_381_440),
        ("VIM-B", 679_477_248, None),
        ("VIM-L", 1_811_939_328, None),
    ],
)
def test_parameter_counts(name, core, total):
    model = Parti(**VARIANTS[name])
    codes = jnp.zeros((1, model.length), jnp.int32)
    sizes = {
        path: x.size
        for path, x in flatten(
            nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), codes)))
        ).items()
    }
    assert core == sum(n for path, n in sizes.items() if "blocks" in path and "kernel" in path)
    assert total in (None, sum(sizes.values()))
    assert model.width // model.heads == {"VIM-B": 96}.get(name, 64)


@pytest.mark.parametrize(
    ("side", "kernel", "pairs", "most"), [(4, 3, 67, 5), (8, 3, 295, 5), (32, 11, 57_169, 61)]
)
def test_mask_pairs(side, kernel, pairs, most):
    seen = offsets("conv", kernel, side, side)
    mask = visibility(seen, side * side)
    assert mask.sum() == pairs and mask.sum(1).max() == most == seen.sum()
    r = kernel // 2
    assert len(seen) == r * side + r + 1  # 166 of 11 x 11 on 32 x 32
    dense = visibility(offsets("dense", kernel, side, side), side * side)
    np.testing.assert_array_equal(dense, np.tril(np.ones_like(dense)))


def test_mask_by_its_definition():
    rows, cols, r = 5, 6, 2
    mask = visibility(offsets("conv", 5, rows, cols), rows * cols)
    for i in range(rows * cols):
        for j in range(rows * cols):
            d = i - j
            near = any(d == a * cols + b for a in range(r + 1) for b in range(-r, r + 1))
            assert mask[i, j] == (d >= 0 and near)


@pytest.mark.parametrize("pattern", ["conv", "dense"])
def test_logits_see_what_they_may_and_nothing_else(pattern):
    model, params, cond = made(pattern=pattern, depth=1)

    @jax.jit
    def logits(codes):
        return model.apply({"params": params}, codes, cond)[0]

    mask = visibility(model.seen, 16)
    base = np.asarray(logits(CODES))
    for j in range(15):
        changed = np.asarray(logits(CODES.at[0, j].set((CODES[0, j] + 1) % 11)))
        moved = (changed != base).any(-1)
        np.testing.assert_array_equal(moved, mask[:, j + 1])  # code j is the input at j + 1


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pattern": "dense"},
        {"qk_norm": True, "positions": "full"},
        {"vocab": 0, "activation": "gelu"},
    ],
)
def test_cached_steps_equal_the_teacher_forced_pass(changes, ring):
    model, params, cond = made(**changes)
    want = model.apply({"params": params}, CODES, cond)
    one = jax.jit(lambda cache, code, k: step(model, params, cache, code, k))
    for first in (0, 7):
        given = CODES[:, :first] if first else None
        cache = begin(model, params, cond, 3, given=given, ring=ring, dtype="float32")
        slots = 6 if ring and model.pattern == "conv" else 16
        assert cache.k.shape == (2, 3, slots, 2, 8)
        for k in range(first, 16):
            found, cache = one(cache, CODES[:, k - 1], k)
            np.testing.assert_allclose(found, want[:, k], rtol=0, atol=1e-5)
    assert np.std(want) > 0.3


def test_text_matters_and_padding_does_not():
    model, params, _ = made()
    run = lambda tokens: model.apply({"params": params}, CODES, {"tokens": tokens})  # noqa: E731
    base = run(TEXT)
    assert np.abs(base - run(TEXT.at[:, 0].set(7))).max() > 1e-3
    np.testing.assert_allclose(run(TEXT[:, :4])[:2], base[:2], atol=1e-5)
    null = model.apply({"params": params}, CODES)
    empty = jnp.broadcast_to(jnp.array([1, 0, 0, 0, 0]), (3, 5))
    np.testing.assert_array_equal(null, run(empty))
    assert np.isfinite(null).all()


def test_classes_and_their_null():
    model, params, _ = made(vocab=0, num_classes=4)
    run = lambda *label: model.apply({"params": params}, CODES, {"label": jnp.array(label)})  # noqa: E731
    null = model.apply({"params": params}, CODES)
    np.testing.assert_array_equal(null, run(4, 4, 4))
    assert np.abs(null - run(0, 1, 2)).max() > 1e-3


def test_dropout_differs_by_layer_and_key():
    model, params, cond = made(dropout=0.5)
    run = lambda k: model.apply(  # noqa: E731
        {"params": params}, CODES, cond, train=True, rngs={"dropout": jax.random.key(k)}
    )
    np.testing.assert_array_equal(run(0), run(0))
    assert np.abs(run(0) - run(1)).max() > 1e-2


def test_uniform_logits_cost_ln_8192():
    from genjax.objectives.codes import cross_entropy

    loss, log_z = cross_entropy(jnp.zeros((1, 2, 8192)), jnp.array([[3, 8191]]))
    np.testing.assert_allclose(loss, 9.010913, rtol=1e-6)
    np.testing.assert_allclose(log_z, loss)


@pytest.mark.parametrize(
    "wrong", [{"heads": 3}, {"kernel": 4}, {"pattern": "local"}, {"num_classes": 3}, {"dropout": 1}]
)
def test_wrong_fields(wrong):
    with pytest.raises(ValueError):
        Parti(**{**TINY, **wrong})
