"""The autoencoder's shapes, exact sizes, posterior and precision."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import tree
from genjax.models.vae import KLVAE, VARIANTS, sample_posterior, split_moments

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


def init(module, x):
    """Returns random parameters; numpy's, since compiling the initialisers takes seconds."""
    rng = np.random.default_rng(0)
    boxed = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return {
        "params": jax.tree.map(
            lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32), nn.meta.unbox(boxed)
        )
    }


def apply(module, variables, *args, method="__call__"):
    return jax.jit(lambda *a: module.apply(variables, *a, method=method))(*args)


def shapes(module, side=64):
    x = jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)["params"]


def test_parameter_counts_are_the_published_ones():
    params = nn.meta.unbox(shapes(KLVAE()))
    sizes = {name: tree.size(part) for name, part in params.items()}
    assert sizes == {
        "encoder": 34_163_592,
        "decoder": 49_490_179,
        "quant_conv": 72,
        "post_quant_conv": 20,
    }
    assert tree.size(params) == 83_653_863
    assert len(tree.flatten(params)) == 248
    assert KLVAE(**VARIANTS["f8"]) == KLVAE()
    assert "quant_conv" not in shapes(KLVAE(**VARIANTS["f8-16"]))


def test_every_parameter_has_logical_axis_names_of_its_rank():
    boxed = jax.tree.leaves(
        shapes(KLVAE(**SMALL)), is_leaf=lambda v: isinstance(v, nn.LogicallyPartitioned)
    )
    assert len(boxed) == 124  # the tensors of diffusers' two-level autoencoder
    for box in boxed:
        assert isinstance(box, nn.LogicallyPartitioned)
        assert len(box.names) == len(box.value.shape)
        named = [name for name in box.names if name]
        assert len(set(named)) == len(named)


def test_shapes_of_rectangles_and_the_sides_refused():
    module = KLVAE(**SMALL, in_channels=1, out_channels=2, latent_channels=3)
    x = jnp.zeros((2, 8, 12, 1))
    variables = init(module, x)
    moments = apply(module, variables, x, method="encode")
    assert moments.shape == (2, 4, 6, 6)
    assert apply(module, variables, moments[..., :3], method="decode").shape == (2, 8, 12, 2)
    with pytest.raises(ValueError, match="divisible by 2"):
        apply(module, variables, jnp.zeros((2, 7, 8, 1)), method="encode")


def test_the_call_decodes_the_posterior():
    module = KLVAE(**SMALL)
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 3))
    variables = init(module, x)
    noise = jax.random.normal(jax.random.key(2), (1, 2, 2, 4))

    def both_ways(module):
        moments = module.encode(x)
        decoded = module.decode(moments[..., :4]), module.decode(sample_posterior(moments, noise))
        return decoded, (module(x), module(x, noise))

    (mean, drawn), (got_mean, got_drawn) = apply(module, variables, method=both_ways)
    np.testing.assert_allclose(got_mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got_drawn, drawn, rtol=1e-4, atol=1e-4)
    assert np.abs(mean - drawn).max() > 0.01


def test_posterior_splits_clamps_and_scales():
    moments = jnp.array([[1.0, 2.0, 2 * np.log(3.0), 50.0], [1.0, 2.0, -99.0, 0.0]])
    mean, logvar = split_moments(moments.astype(jnp.float32))
    np.testing.assert_array_equal(mean, [[1, 2], [1, 2]])
    np.testing.assert_allclose(logvar, [[2 * np.log(3.0), 20], [-30, 0]], rtol=1e-6)
    z = sample_posterior(moments, jnp.ones((2, 2)))
    np.testing.assert_allclose(z[0], [4.0, 2 + np.exp(10.0)], rtol=1e-5)
    np.testing.assert_allclose(z[1], [1 + np.exp(-15.0), 3.0], rtol=1e-6)


def test_the_encoder_pads_bottom_and_right_only():
    # The down-sampler copies its top-left tap: the top left pixel reaches the top left latent.
    # With padding on all sides it would meet only padding there, and the pixel would be lost.
    module = KLVAE(**SMALL, mid_block_add_attention=False)
    x = jnp.zeros((1, 8, 8, 3)).at[0, 0, 0].set(5.0)
    variables = init(module, x)
    encoder = variables["params"]["encoder"]
    only = (jnp.arange(9).reshape(3, 3) == 0)[:, :, None, None]
    encoder["down_blocks_0_downsamplers_0_conv"]["kernel"] *= only
    for name, part in encoder.items():  # residual blocks become the identity
        if "resnets" in name:
            part["conv2"]["kernel"] *= 0
    centre = (jnp.arange(9).reshape(3, 3) == 4)[:, :, None, None]
    for name in ("conv_in", "conv_out"):
        encoder[name]["kernel"] *= centre
    moments = apply(module, variables, x, method="encode")[0]
    assert np.abs(moments[0, 0] - moments[2, 2]).max() > 1e-2


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    full, half = KLVAE(**SMALL), KLVAE(**SMALL, dtype="bfloat16")
    variables = init(full, x)
    want, got = apply(full, variables, x), apply(half, variables, x)
    assert got.dtype == jnp.float32
    difference = np.abs(want - got).max() / np.abs(want).max()
    assert 1e-4 < difference < 0.1


def test_fields_out_of_range_are_refused():
    with pytest.raises(ValueError, match="divisible by norm_num_groups"):
        KLVAE(block_out_channels=(8, 12), norm_num_groups=8)
    with pytest.raises(ValueError, match="attention_layout"):
        KLVAE(attention_layout="qkv")
