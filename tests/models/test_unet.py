"""U-Nets: the sheets' parameter counts and operations, initialisation, scan, bfloat16, errors."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.tree import flatten, size
from genjax.models import MODELS
from genjax.models.unet import VARIANTS

# Variant -> side, changed fields, parameters without the fixed frequencies (score_sde.md 4.1,
# edm.md 4.1).
COUNTS = [
    ("ncsnpp-discrete", 32, {}, 62_693_251),
    ("ncsnpp", 32, {}, 62_758_787),
    ("ncsnpp-deep", 32, {}, 107_586_947),
    ("ddpmpp", 32, {}, 61_804_419),
    ("ddpmpp-deep", 32, {}, 106_632_579),
    ("ddpm", 32, {}, 35_218_947),
    ("ncsnpp-discrete", 64, {}, 62_693_251),
    ("ncsnpp-256", 256, {}, 65_574_421),
    ("ncsnpp-1024", 1024, {}, 105_785_880),
    ("edm-ddpmpp", 32, {}, 55_733_891),
    ("edm-ddpmpp", 32, {"num_classes": 10}, 55_735_299),
    ("edm-ddpmpp", 32, {"augment": 0}, 55_732_739),
    ("edm-ncsnpp", 32, {}, 56_397_827),
    ("edm-ncsnpp", 32, {"num_classes": 10}, 56_400_643),
    ("edm-ddpmpp-64", 64, {}, 61_805_571),
    ("edm-ncsnpp-64", 64, {}, 62_761_091),
    ("adm-64", 64, {}, 295_899_267),
]
_TINY = {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (8,)}
_SMALL = {"channels": 32, "channel_mult": (1, 2, 2), "blocks": 1, "attention": (16,)}
# The small configurations of score_sde.md 9a and edm.md 9a.
SMALL_COUNTS = [
    ("ncsnpp", 16, _TINY, 190_819),
    ("ddpmpp", 16, _TINY, 189_347),
    ("ncsnpp-1024", 16, _TINY, 191_382 - 16),
    ("ncsnpp", 32, _SMALL, 1_284_067 - 32),
    ("ddpmpp", 32, _SMALL, 1_260_547),
    ("ncsnpp-1024", 32, _SMALL, 1_268_777 - 32),
    ("ddpm", 32, _SMALL, 1_097_187),
    ("adm-64", 16, {**_TINY, "channels": 64, "num_classes": 10}, 3_295_939),
]


def build(variant, **fields):
    return MODELS.build({"name": "unet", "variant": variant, **fields})


def abstract(module, side, channels=3):
    args = jax.random.key(0), jnp.zeros((1, side, side, channels)), jnp.zeros(1)
    return jax.eval_shape(module.init, *args)["params"]


@pytest.mark.parametrize(("variant", "side", "fields", "count"), COUNTS + SMALL_COUNTS)
def test_parameters_are_the_sheets(variant, side, fields, count):
    params = nn.unbox(abstract(build(variant, **fields), side))
    fixed = params["conditioning"].get("fourier", {"frequencies": np.zeros(0)})["frequencies"]
    assert size(params) - fixed.size == count
    assert fixed.size in (0, fields.get("channels", VARIANTS[variant].get("channels", 128)))


# Variant -> side, GFLOP of the sheets (2 x MAC), tolerance. Where images go down by a filtered
# convolution ("ncsnpp", ...) the sheets count one at full size; filtering first costs less.
FLOPS = [
    ("edm-ddpmpp", 32, 42.38, 2e-4),
    ("edm-ddpmpp-64", 64, 83.7, 1e-3),
    ("ddpmpp", 32, 21.7, 2e-3),
    ("ddpmpp-deep", 32, 37.1, 1e-3),
    ("adm-64", 64, 219.3, 2e-4),
    ("edm-ncsnpp", 32, 42.79, 0.01),
    ("ncsnpp", 32, 22.0, 0.012),
    ("ncsnpp-deep", 32, 37.2, 1e-3),
    ("ncsnpp-256", 256, 533, 1e-3),
    ("ncsnpp-1024", 1024, 505, 4e-3),
]


@pytest.mark.parametrize(("variant", "side", "gflop", "rtol"), FLOPS)
def test_operations_are_the_sheets(variant, side, gflop, rtol):
    assert build(variant).forward_flops((side, side, 3)) / 1e9 == pytest.approx(gflop, rel=rtol)


def test_every_variant_is_counted_or_differs_from_one_that_is():
    counted = {variant for variant, *_ in COUNTS}
    assert VARIANTS.keys() - counted == {"ncsnpp-deep-discrete", "ddpmpp-64", "ncsnpp-64"}
    # Configs A and B at 64 pixels: five levels, of 128, 128, 256, 256 and 256 channels.
    runs = build("ddpmpp-64").runs(64)
    widths = {r.level: r.shape.features for r in runs if r.part == "enc" and "block" in r.name}
    assert list(widths.values()) == [128, 128, 256, 256, 256]


def inputs(side=8):
    x = np.random.default_rng(0).standard_normal((2, side, side, 3))
    return jax.random.key(0), jnp.asarray(x, jnp.float32), jnp.asarray([-1.0, 2.0])


def fresh(module, side=8):
    """Returns the initial parameters, an image and times."""
    key, x, t = inputs(side)
    return nn.unbox(jax.jit(module.init)(key, x, t)), x, t


def filled(module, side=8):
    """Returns random parameters, an image and times: branches of a new network are nearly 0."""
    _, x, t = inputs(side)
    rng = np.random.default_rng(1)
    values = lambda p: 0.1 * rng.standard_normal(p.shape, dtype=np.float32)  # noqa: E731
    return {"params": jax.tree.map(values, nn.unbox(abstract(module, side)))}, x, t


TINY = {**_TINY, "attention": (4,), "blocks": 3}
ONE = {"channels": 16, "channel_mult": (1,), "blocks": 3, "attention": ()}


def test_initialisation_of_song_s_networks():
    module = build("edm-ncsnpp", **TINY, num_classes=10)
    variables, x, t = fresh(module)
    p = flatten(variables["params"])
    for name, fans in {
        "in/kernel": 9 * (3 + 16),
        "enc0_block0_to_2/conv0/kernel": 9 * 32,
        "enc0_block0_to_2/affine/kernel": 64 + 16,
        "enc1_pyramid/conv/kernel": 9 * (3 + 16),
        "conditioning/in/kernel": 32 + 64,
        "conditioning/label/kernel": 10 + 32,
        "conditioning/augment/kernel": 9 + 32,
        "mid0/attention/qkv/kernel": 5 * 4 * 32,  # sqrt(0.2) of Xavier's bound for 3C
        "mid0/attention/out/kernel": 2e10 * 32,
        "mid0/conv1/kernel": 1e10 * 9 * 64,
        "dec0_head/conv/kernel": 1e10 * 9 * (16 + 3),
    }.items():
        bound = (6 / fans) ** 0.5
        assert 0.9 * bound < float(jnp.abs(p[name]).max()) <= bound * 1.0001, name
    assert not np.allclose(*p["enc0_block0_to_2/conv0/kernel"][:2])
    assert all(not np.any(p[name]) for name in p if name.endswith("bias"))
    assert abs(float(p["conditioning/fourier/frequencies"].std()) / 16 - 1) < 0.5
    out = jax.jit(module.apply)(variables, x, t)
    assert 1e-7 < float(jnp.abs(out).max()) < 1e-3  # nearly 0, not 0
    grads = jax.jit(jax.grad(lambda v: jnp.sum(jnp.abs(module.apply(v, x, t) - 1))))(variables)
    assert not np.any(grads["params"]["conditioning"]["fourier"]["frequencies"])


def test_initialisation_of_adm():
    module = build("adm-64", **TINY, head_channels=16, num_classes=10, augment=9)
    variables, x, t = fresh(module)
    p = flatten(variables["params"])
    for name, fan_in in {
        "in/kernel": 27,
        "in/bias": 27,
        "enc1_block1_to_2/conv0/kernel": 9 * 32,
        "mid0/attention/qkv/kernel": 32,
        "mid0/attention/qkv/bias": 32,
        "conditioning/out/bias": 64,
    }.items():
        bound = fan_in**-0.5
        assert 0.85 * bound < float(jnp.abs(p[name]).max()) <= bound * 1.0001, name
    assert abs(float(p["conditioning/label/kernel"].std()) - 1) < 0.1
    zero = [k for k in p if "conv1/" in k or "attention/out/" in k or "head/conv" in k]
    assert len(zero) > 20 and not any(np.any(p[k]) for k in [*zero, "conditioning/augment/kernel"])
    assert not np.any(jax.jit(module.apply)(variables, x, t))


@pytest.mark.slow
def test_unrolled_and_rematerialised_networks_are_the_same():
    module = build("ddpmpp", **ONE)
    assert [len(run.names) for run in module.runs(8)] == [3, 1, 1, 4]
    variables, x, t = filled(module)

    def answer(**changes):
        net = dataclasses.replace(module, **changes)
        loss = lambda v: jnp.mean(net.apply(v, x, t) ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(variables)

    value, grads = answer()
    for changes in ({"unroll": 3}, {"remat": "full"}):
        other, others = answer(**changes)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        for path, a in flatten(others).items():
            b = flatten(grads)[path]
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-9, err_msg=path)


def test_half_precision_computes_in_bfloat16_and_returns_float32():
    module = build("ncsnpp-1024", **{**TINY, "blocks": 1})
    variables, x, t = filled(module)
    half = dataclasses.replace(module, dtype="bfloat16")
    found, want = (jax.jit(m.apply)(variables, x, t) for m in (half, module))
    assert found.dtype == jnp.float32
    error = np.abs(found - want).max() / np.abs(want).max()
    assert 1e-5 < error < 0.05
    text = str(jax.make_jaxpr(half.apply)(variables, x, t))
    kinds = [line for line in text.splitlines() if "conv_general_dilated[" in line]
    assert sum("bf16" in line.split("=")[0] for line in kinds) > len(kinds) / 2


def test_data_in_0_1_is_centred_first():
    module = build("ddpmpp", **ONE)
    variables, x, t = filled(module)
    centred = dataclasses.replace(module, center=True)
    want = jax.jit(module.apply)(variables, 2 * x - 1, t)
    np.testing.assert_allclose(jax.jit(centred.apply)(variables, x, t), want, rtol=1e-5, atol=1e-6)


def test_parameters_carry_logical_axes():
    params = abstract(build("edm-ncsnpp", **TINY, num_classes=3), 8)
    boxes = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(isinstance(b, nn.LogicallyPartitioned) for b in boxes)
    assert all(len(b.names) == len(b.value.shape) for b in boxes)
    stacked = params["enc1_block1_to_2"]
    assert stacked["conv0"]["kernel"].names == ("layers", None, None, "embed", "channels")
    assert stacked["norm0"]["scale"].names == ("layers", "channels")
    assert params["in"]["kernel"].names == (None, None, None, "channels")
    assert params["dec0_head"]["conv"]["bias"].names == (None,)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"block": "resnet"}, "network: block: 'resnet' is none of biggan, ddpm, adm"),
        ({"progressive_input": "cat"}, "progressive_input: 'cat' is none of none, skip, residual"),
        ({"heads": 3}, "3 heads do not divide the 256 channels"),
        ({"head_channels": 512}, "heads do not divide the 256 channels"),
        ({"resample_filter": (1, 2, 1)}, "no symmetric filter of an even number"),
        ({"remat": "half"}, "remat: 'half' is no policy"),
        ({"dtype": "float16"}, "dtype: 'float16' is none of"),
        ({"dropout": 1.0}, "dropout: 1.0 does not lie"),
        ({"blocks": 0}, "at least 1"),
        ({"channel_mult": ()}, "at least one level"),
        ({"group_channels": 200}, "a level has fewer than 200"),
    ],
)
def test_fields_out_of_range_are_named(fields, words):
    with pytest.raises(UserError, match=words):
        MODELS.build({"name": "unet", **fields}, "network")


def test_levels_must_divide_the_image():
    with pytest.raises(ValueError, match=r"28 x 30 cannot be halved 2 times.*divisible by 4"):
        build("edm-ddpmpp").init(jax.random.key(0), jnp.zeros((1, 28, 30, 1)), jnp.zeros(1))
