"""ViT-VQGAN and its discriminator: exact counts, codes and pictures, other sizes of image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import tree
from genjax.core.errors import UserError
from genjax.models import MODELS

SMALL = {"depth": 1, "heads": 2, "width": 16, "hidden": 32}
TINY = {
    "name": "vit_vqgan",
    "encoder_size": SMALL,
    "decoder_size": {**SMALL, "depth": 2},
    "quantizer": {"name": "vq", "size": 32, "dim": 4},
    "patch": 2,
    "grid": (4, 4),
}


def shapes(module, *args):
    return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *args))["params"]


def tiny(**fields):
    module = MODELS.build(TINY | fields)
    made = shapes(module, jnp.zeros((1, *module.image)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: (0.3 * rng.normal(size=s.shape)).astype(np.float32), made)
    return module, {"params": params}


# Sheet, section 4: blocks of one size, encoder, decoder with 3 and with 6 channels.
COUNTS = {
    "S": (8, 3_152_384, 26_959_392, 27_205_312, 27_598_720),
    "B": (12, 7_087_872, 88_451_360, 88_820_160, 89_410_176),
    "L": (32, 19_677_440, 637_960_992, 638_575_552, 639_558_784),
}


@pytest.mark.parametrize("variant", ["SS", "BB", "LL", "SL", "BL"])
def test_parameter_counts_are_the_sheets(variant):
    for head, column in (("rgb", 3), ("logit_laplace", 4)):
        module = MODELS.build({"name": "vit_vqgan", "variant": variant, "head": head})
        found = shapes(module, jnp.zeros((1, 256, 256, 3)))
        encoder, decoder = (COUNTS[size] for size in variant)
        assert tree.size(found["encoder"]["blocks"]) == encoder[0] * encoder[1]
        assert tree.size(found["encoder"]) == encoder[2]
        assert tree.size(found["decoder"]) == decoder[column]
        assert tree.size(found["quantizer"]) == 262_144


def test_the_published_counts_are_a_planning_formula():
    # Table 2 prints 32, 91 and 599 M: 3d^2 of attention and two tables of 8,192 rows.
    millions = {}
    for name, d, f in (("S", 512, 2048), ("B", 768, 3072), ("L", 1280, 5120)):
        layers = COUNTS[name][0]
        millions[name] = (layers * (3 * d * d + 2 * d * f) + (2 * 8192 + 1024) * d) / 1e6
    assert {k: round(v) for k, v in millions.items()} == {"S": 32, "B": 91, "L": 599}


@pytest.mark.parametrize(("variant", "want"), [("SS", 144), ("BB", 438), ("LL", 2953)])
def test_flops_are_the_sheets(variant, want):
    # 71 + 73, 218 + 220, 1475 + 1478 GF, and two lookups' worth of rounding
    module = MODELS.build({"name": "vit_vqgan", "variant": variant, "head": "rgb"})
    assert module.forward_flops((256, 256, 3)) / 1e9 == pytest.approx(want, rel=0.005)


def test_decode_of_encode_is_what_training_saw():
    module, variables = tiny(head="logit_laplace", quantizer={"name": "vq", "size": 32, "dim": 4})
    x = np.random.default_rng(1).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    coded = module.apply(variables, x)
    index = module.apply(variables, x, method="encode")
    assert index.shape == (3, 16) == (3, module.length) and index.dtype == jnp.int32
    assert len(np.unique(index)) > 1
    np.testing.assert_array_equal(index, coded.quantized.index)
    picture = module.apply(variables, index, method="decode")
    np.testing.assert_allclose(picture, jnp.clip(coded.image, 0, 1), atol=1e-6)
    mu, log_b = module.distribution(coded.raw)
    np.testing.assert_array_equal(coded.image, jax.nn.sigmoid(mu))
    assert mu.shape == log_b.shape == x.shape and np.abs(log_b).max() <= 7


def test_dalles_squeeze_is_undone():
    module, variables = tiny(head="logit_laplace", squeeze=0.1)
    x = np.random.default_rng(1).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    coded = module.apply(variables, x)
    mu, _ = module.distribution(coded.raw)
    np.testing.assert_allclose(coded.image, (jax.nn.sigmoid(mu) - 0.1) / 0.8, rtol=1e-6)


def test_tokens_lie_in_raster_order():
    # A decoder that copies: then only the n-th code changes the n-th patch of a linear model.
    module, variables = tiny()
    index = np.zeros((1, 16), np.int32)
    params = variables["params"]
    blocks = jax.tree.map(np.zeros_like, params["decoder"]["blocks"])  # no token sees another
    variables = {"params": {**params, "decoder": {**params["decoder"], "blocks": blocks}}}
    base = module.apply(variables, index, method="decode")
    index[0, 6] = 9  # row 1, column 2
    changed = np.abs(module.apply(variables, index, method="decode") - base)[0].max(-1) > 0
    rows, cols = np.nonzero(changed)
    assert set(rows) <= {2, 3} and set(cols) <= {4, 5} and len(rows)


def test_other_grids_interpolate_the_positions():
    module, variables = tiny()
    x = np.random.default_rng(1).uniform(size=(1, 8, 16, 3)).astype(np.float32)
    index = module.apply(variables, x, method="encode")
    assert index.shape == (1, 32)
    assert module.apply(variables, index, (4, 8), method="decode").shape == x.shape
    with pytest.raises(ValueError, match="multiples of patch 2"):
        module.apply(variables, x[:, :7], method="encode")


@pytest.mark.parametrize("name", ["fsq", "lfq"])
def test_other_quantisers_stand_in_the_same_place(name):
    module, variables = tiny(quantizer={"name": name})
    x = np.random.default_rng(1).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    coded = module.apply(variables, x)
    assert coded.quantized.index.max() < module.quantizer.size
    picture = module.apply(variables, coded.quantized.index, method="decode")
    np.testing.assert_allclose(picture, jnp.clip(coded.image, 0, 1), atol=1e-6)


def test_the_discriminators_widths_and_sizes():
    module = MODELS.build({"name": "stylegan_discriminator"})
    sides = module.resolutions(256, 256)
    assert sides == [256, 128, 64, 32, 16, 8, 4]
    assert [module._width(r) for r in sides] == [64, 128, 256, 512, 512, 512, 512]
    wide = module.clone(multiplier=2.0)
    assert [wide._width(r) for r in sides[:4]] == [128, 256, 512, 512]
    assert module.resolutions(8, 24) == [8, 4]
    for height, width in ((28, 28), (8, 9), (2, 2)):
        with pytest.raises(ValueError, match="cannot halve"):
            module.resolutions(height, width)
    small = MODELS.build({"name": "stylegan_discriminator", "max_channels": 8})
    variables = nn.unbox(jax.jit(small.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    logits = jax.jit(small.apply)(variables, x)
    assert logits.shape == (4,) and logits.dtype == jnp.float32
    alone = jax.jit(small.apply)(variables, x[1:2])[0]
    np.testing.assert_allclose(logits[1], alone, rtol=1e-4, atol=1e-5)
    assert np.std(logits) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "cmyk"}, "head"),
        ({"squeeze": 0.1}, "squeeze"),
        ({"encoder_size": {**SMALL, "heads": 3}}, "heads"),
        ({"remat": "some"}, "remat"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_wrong_fields_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        MODELS.build(TINY | change)
