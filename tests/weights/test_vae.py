"""Loading and saving autoencoders in the layout of diffusers, without diffusers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import tree
from genjax.core.errors import UserError
from genjax.models.vae import ATTENTION_LAYOUTS, KLVAE
from genjax.weights import vae

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


def file_of(dtype="float32", **fields):
    """Returns random tensors as a file would hold them."""
    module = KLVAE(**SMALL | fields)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(dtype), shapes["params"])
    return vae.save(module, {"params": params})


@pytest.mark.parametrize("layout", ATTENTION_LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_saved_is_what_was_loaded(layout, dtype):
    tensors = file_of(jnp.dtype(dtype), attention_layout=layout)
    module, variables = vae.load(tensors, norm_num_groups=4)
    saved = vae.save(module, variables)
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert saved[name].dtype == tensor.dtype
        np.testing.assert_array_equal(saved[name], tensor)


def test_names_and_layouts_are_those_of_the_files():
    tensors = file_of()
    assert tensors["encoder.down_blocks.0.resnets.0.norm1.weight"].shape == (8,)
    assert tensors["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"].shape == (16, 8, 1, 1)
    assert tensors["encoder.down_blocks.0.downsamplers.0.conv.weight"].shape == (8, 8, 3, 3)
    assert tensors["decoder.up_blocks.0.upsamplers.0.conv.bias"].shape == (16,)
    assert tensors["decoder.mid_block.attentions.0.to_out.0.weight"].shape == (16, 16)
    assert tensors["decoder.mid_block.attentions.0.group_norm.bias"].shape == (16,)
    assert tensors["decoder.conv_in.weight"].shape == (16, 4, 3, 3)
    assert tensors["post_quant_conv.weight"].shape == (4, 4, 1, 1)
    old = file_of(attention_layout="query-conv")
    assert old["encoder.mid_block.attentions.0.proj_attn.weight"].shape == (16, 16, 1, 1)
    assert "encoder.mid_block.attentions.0.key.bias" in old


def test_all_attention_layouts_are_the_same_network():
    first, *others = (
        vae.load(file_of(attention_layout=a), norm_num_groups=4)[1] for a in ATTENTION_LAYOUTS
    )
    for other in others:
        for path, leaf in tree.flatten(first).items():
            np.testing.assert_array_equal(tree.flatten(other)[path], leaf)


def test_fields_are_read_off_the_tensors():
    fields = {
        "block_out_channels": (4, 8, 12),
        "layers_per_block": 2,
        "latent_channels": 2,
        "in_channels": 1,
        "out_channels": 5,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    module = KLVAE(**fields, norm_num_groups=4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    tensors = vae.save(module, {"params": jax.tree.map(lambda s: np.zeros(s.shape), shapes)})
    assert vae.load(tensors, norm_num_groups=4)[0] == module


def test_a_configuration_of_diffusers_is_accepted_and_checked():
    config = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "norm_num_groups": 4,
        "scaling_factor": 0.18215,
    }
    assert vae.load(file_of(), **config)[0] == KLVAE(**SMALL)
    for wrong, message in (
        ({"block_out_channels": [8, 8]}, "block_out_channels"),
        ({"act_fn": "relu"}, "act_fn"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "down_block"),
        ({"norm_groups": 4}, "unknown field 'norm_groups'"),
    ):
        with pytest.raises(UserError, match=message):
            vae.load(file_of(), **config | wrong)


def test_wrong_files_are_refused_by_name():
    good = file_of()
    with pytest.raises(UserError, match="give norm_num_groups"):
        vae.load(good)  # 32 groups do not divide 8 channels
    with pytest.raises(UserError, match="no tensor"):
        vae.load({"x_embedder.proj.weight": np.zeros((1, 1, 2, 2))})
    with pytest.raises(UserError, match=r"lacks 1 tensor.*decoder\.conv_in\.bias"):
        vae.load({k: v for k, v in good.items() if k != "decoder.conv_in.bias"}, norm_num_groups=4)
    with pytest.raises(UserError, match=r"unknown 1 tensor.*loss\.logvar"):
        vae.load(good | {"loss.logvar": np.zeros(())}, norm_num_groups=4)
    with pytest.raises(UserError, match=r"decoder\.conv_norm_out\.bias.*shape \(9,\)"):
        vae.load(good | {"decoder.conv_norm_out.bias": np.zeros(9)}, norm_num_groups=4)
    with pytest.raises(UserError, match="shape"):  # a 3x3 convolution is no attention layout
        vae.load(
            good | {"encoder.mid_block.attentions.0.to_k.weight": np.zeros((16, 16, 3, 3))},
            norm_num_groups=4,
        )


def test_locate_finds_the_file_and_the_configuration_beside_it(tmp_path):
    folder = tmp_path / "vae"
    folder.mkdir()
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"")
    assert vae.locate(str(tmp_path)) == vae.locate(str(file)) == (str(file), {})
    config = {"_class_name": "AutoencoderKL", "norm_num_groups": 4}
    (folder / "config.json").write_text(json.dumps(config))
    assert vae.locate(str(folder)) == (str(file), {"norm_num_groups": 4})
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    assert vae.locate(str(folder)) == (str(file), {})
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        vae.locate(str(folder))
    with pytest.raises(UserError, match="diffusion_pytorch_model"):
        vae.locate(str(tmp_path.parent))
