"""What a U-Net is asked for beside its output: features, skip scales, masks, labels, dropout."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten, nested
from genjax.models import MODELS
from genjax.models.unet_blocks import Block, Shape
from genjax.weights.layout import parameter_shapes

TINY = {"channels": 16, "channel_mult": (1, 2), "blocks": 2, "attention": (4,)}
VARIANTS = {
    "edm-ncsnpp": {},
    "adm-64": {"channels": 16, "head_channels": 8, "num_classes": 3},
    "ddpm": {"channels": 32},
}


def build(variant, **fields):
    own = VARIANTS.get(variant, {})
    return MODELS.build({"name": "unet", "variant": variant, **TINY, **own, **fields})


def filled(module, std=0.15):
    """Returns parameters of which none is zero, as the last convolutions of a new network are."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(module, (8, 8, 3))
    values = {
        k: k.endswith("scale") + std * rng.standard_normal(v, dtype=np.float32)
        for k, v in shapes.items()
    }
    return {"params": nested(values)}


def batch(b=2):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((b, 8, 8, 3), dtype=np.float32)
    return jnp.asarray(x), jnp.linspace(0.1, 2.0, b)


def apply(module, variables, *args, **kwargs):
    return jax.jit(lambda v, *a: module.apply(v, *a, **kwargs))(variables, *args)


@pytest.fixture(scope="module")
def case():
    module = build("edm-ncsnpp")
    return module, filled(module)


def test_features_are_what_the_network_computes(case):
    module, variables = case
    x, t = batch()
    scale = jnp.linspace(0.5, 1.0, module.num_skips)
    names = [f"{kind}_{i}" for kind in ("enc", "skip", "dec") for i in range(module.num_skips)]
    out, found = apply(
        module, variables, x, t, inputs={"skip_scale": scale}, features=["mid", *names]
    )
    assert found.keys() == {"mid", *names} and out.shape == x.shape
    c = module.channels
    widths = [c, c, c, c, 2 * c, 2 * c]
    for i, width in enumerate(widths):
        side = 8 if i < 3 else 4
        assert found[f"enc_{i}"].shape == (2, side, side, width)
        np.testing.assert_allclose(
            found[f"skip_{i}"], found[f"enc_{i}"] * scale[i], rtol=2e-5, atol=1e-6
        )
        assert found[f"dec_{5 - i}"].shape == (2, side, side, c if i < 3 else 2 * c)
    assert found["mid"].shape == (2, 4, 4, 2 * c)
    p = variables["params"]["in"]
    first = jax.lax.conv_general_dilated(
        x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(found["enc_0"], first + p["bias"], atol=1e-5)
    for wrong in ("enc_6", "block_0", "skip_"):
        with pytest.raises(
            ValueError, match="is none of mid, enc_i, skip_i, backbone_i, dec_i with"
        ):
            module.apply(variables, x, t, features=(wrong,))


def test_skip_scales_reach_the_decoder_from_their_skip_on(case):
    module, variables = case
    x, t = batch()
    n = module.num_skips
    names = ["mid", *(f"dec_{i}" for i in range(n))]

    @jax.jit
    def fn(scale):
        out, found = module.apply(variables, x, t, inputs={"skip_scale": scale}, features=names)
        return {"out": out, **found}

    plain = fn(jnp.ones(n))
    np.testing.assert_allclose(apply(module, variables, x, t), plain["out"], rtol=1e-5, atol=1e-5)
    for i in range(n):
        found = fn(jnp.ones(n).at[i].set(0.5))
        moved = {k for k in names if np.abs(found[k] - plain[k]).max() > 1e-4}
        # The input's skip, the first, is the last that the decoder takes.
        assert moved == {f"dec_{j}" for j in range(n - 1 - i, n)}
        assert np.abs(found["out"] - plain["out"]).max() > 1e-4


def folded(variables, module, rho, key):
    """Returns the parameters that do to the skips' part of one path what the input `key` does."""
    flat = {k: np.array(v) for k, v in flatten(variables["params"]).items()}
    taken = module.num_skips
    for run in module.runs(8):
        for i in range(len(run.names) if run.shape.skip else 0):
            taken -= 1
            at, arrived = (i if len(run.names) > 1 else slice(None)), run.shape.inputs
            if key == "skip_shortcut_scale":
                kernel = flat[f"{run.name}/skip/kernel"][at].reshape(-1, *flat_shape(run))
                kernel[..., arrived:, :] *= rho[taken]
            else:
                for leaf in ("scale", "bias"):
                    flat[f"{run.name}/norm0/{leaf}"][at][arrived:] *= rho[taken]
    return {"params": nested(flat)}


def flat_shape(run):
    return run.shape.inputs + run.shape.skip, run.shape.features


@pytest.mark.parametrize("key", ["skip_shortcut_scale", "skip_norm_scale"])
@pytest.mark.parametrize("variant", ["edm-ncsnpp", "adm-64"])
def test_a_scale_of_one_path_is_a_scale_of_that_paths_weights(variant, key):
    module = build(variant)
    variables = filled(module)
    x, t = batch()
    rho = np.linspace(0.3, 0.9, module.num_skips, dtype=np.float32)
    found = apply(module, variables, x, t, inputs={key: rho})
    want = apply(module, folded(variables, module, rho, key), x, t)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    assert np.abs(found - apply(module, variables, x, t)).max() > 1e-3


def test_group_norm_hides_a_skips_scale_where_no_group_straddles(case):
    # 32 groups of skip_tuning.md section 3: here a group is 4 channels of 16 | 16, 32 | 32.
    block = Block(Shape(96, 96, 96, "none", False), build("adm-64")._style(False), False)
    rng = np.random.default_rng(0)
    u, d = rng.standard_normal((2, 2, 8, 8, 96), dtype=np.float32)
    emb = jnp.zeros((2, 8))
    variables = block.init(jax.random.key(0), u, {"skip": d}, emb)
    kernel = rng.standard_normal(variables["params"]["conv1"]["kernel"].value.shape) * 0.05
    params = nn.unbox(variables)["params"]
    params["conv1"]["kernel"] = jnp.asarray(kernel, jnp.float32)  # adm starts at 0

    def out(skip):
        return block.apply({"params": params}, u, {"skip": skip}, emb)[0]

    change = out(0.5 * d) - out(d)
    projection = params["skip"]["kernel"].reshape(192, 96)[96:]
    np.testing.assert_allclose(change, -0.5 * d @ projection, atol=2e-4)


def test_backbone_is_what_each_skip_is_joined_to(case):
    module, variables = case
    x, t = batch()
    names = [f"{kind}_{i}" for kind in ("backbone", "dec") for i in range(module.num_skips)]
    _, found = apply(module, variables, x, t, features=["mid", *names])
    n = module.num_skips
    # Within a level what a decoder block leaves is what the next one is joined with.
    np.testing.assert_array_equal(found[f"backbone_{n - 1}"], found["mid"])
    for i in (1, 2, 4, 5):
        np.testing.assert_array_equal(found[f"backbone_{n - 1 - i}"], found[f"dec_{i - 1}"])
    assert found[f"backbone_{n - 1 - 3}"].shape[1] == 8  # after the upsampling block


def without(variables, module, unit):
    """Returns the parameters with a branch's last layer at 0: its contribution is exactly 0."""
    block = unit.removesuffix("_attention")
    run = next(r for r in module.runs(8) if block in r.names)
    last = "attention/out" if unit.endswith("_attention") else "conv1"
    flat = dict(flatten(variables["params"]))
    for end in ("kernel", "bias"):
        value = flat[f"{run.name}/{last}/{end}"].copy()
        if len(run.names) > 1:
            value[run.names.index(block)] = 0
        else:
            value[...] = 0
        flat[f"{run.name}/{last}/{end}"] = value
    return {"params": nested(flat)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_masked_branch_contributes_nothing(variant):
    module = build(variant, blocks=1 if variant == "ddpm" else 2)
    variables = filled(module)
    x, t = batch()
    units = module.unit_names(8)
    fn = jax.jit(lambda v, mask: module.apply(v, x, t, inputs={"block_mask": mask}))
    plain = apply(module, variables, x, t)
    np.testing.assert_allclose(fn(variables, jnp.ones(len(units))), plain, rtol=1e-5, atol=1e-5)
    reference = jax.jit(lambda v: module.apply(v, x, t))
    none = variables
    for i, unit in enumerate(units):
        want = reference(without(variables, module, unit))
        found = fn(variables, jnp.ones(len(units)).at[i].set(0))
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5, err_msg=unit)
        assert np.abs(found - plain).max() > 1e-4, unit
        none = without(none, module, unit)
    np.testing.assert_allclose(
        fn(variables, jnp.zeros(len(units))), reference(none), rtol=1e-4, atol=1e-5
    )


def test_units_are_counted_as_in_the_architecture_search():
    adm = MODELS.build({"name": "unet", "variant": "adm-64"})
    units = adm.unit_names(64)
    assert len(units) == 58 and adm.num_skips == 16  # autodiffusion.md 4, skip_tuning.md
    assert units[:3] == ("enc0_block0", "enc0_block1", "enc0_block2")
    assert units[3:6] == ("enc1_down", "enc1_block0", "enc1_block0_attention")
    assert units[24:27] == ("mid0", "mid0_attention", "mid1") and units[-1] == "dec0_block3"
    ddpm = build("ddpm").unit_names(8)
    assert not [unit for unit in ddpm if "down" in unit or "up" in unit]


def test_masked_branches_are_not_computed():
    module = build("edm-ncsnpp")
    variables = filled(module)
    x, t = batch()
    mask = {"block_mask": jnp.zeros(len(module.unit_names(8)))}
    text = str(jax.make_jaxpr(lambda v, m: module.apply(v, x, t, inputs=m))(variables, mask))
    assert text.count("cond[") >= len({r.name for r in module.runs(8)})


SMALL = {"channel_mult": (1,), "blocks": 1, "attention": ()}


@pytest.mark.parametrize("variant", ["edm-ncsnpp", "adm-64"])
def test_labels_augmentation_and_no_label(variant):
    x, t = batch(5)
    module = build(variant, **SMALL, num_classes=3, augment=9)
    variables = filled(module)
    fn = jax.jit(lambda v, x, cond: module.apply(v, x, t, cond))
    x = jnp.broadcast_to(x[:1], x.shape)
    t = jnp.ones(5)
    # Labels 0, 1, 2, none; and label 1 with an augmentation.
    cond = {"label": jnp.array([0, 1, 2, 3, 1]), "augment": jnp.zeros((5, 9)).at[4].set(1)}
    out = np.asarray(fn(variables, x, cond))
    for a in range(5):
        for b in range(a):
            assert np.abs(out[a] - out[b]).max() > 1e-4, (a, b)
    none = fn(variables, x, None)
    np.testing.assert_allclose(none, np.broadcast_to(out[3:4], out.shape), rtol=1e-5, atol=1e-5)
    bare = fn(variables, x, cond["label"])
    np.testing.assert_allclose(bare[:4], out[:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bare[4], out[1], rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_alone():
    module = build("edm-ncsnpp", **SMALL, dropout=0.5)
    variables = filled(module)
    x, t = batch()
    drop = jax.jit(lambda key: module.apply(variables, x, t, train=True, rngs={"dropout": key}))
    a, b = (drop(jax.random.key(seed)) for seed in range(2))
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(drop(jax.random.key(0)), a)
    still = dataclasses.replace(module, dropout=0.0)
    want = jax.jit(lambda: still.apply(variables, x, t, train=True))()
    np.testing.assert_allclose(apply(module, variables, x, t), want, rtol=1e-5, atol=1e-5)
