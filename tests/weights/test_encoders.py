"""CLIP, DINOv2 and LPIPS files without their packages: round trips, names, wrong files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.core.errors import UserError
from genjax.models.dinov2 import DINOv2
from genjax.models.lpips import LPIPS
from tests.models.test_encoders import TINY


def random_variables(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def clip():
    x, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 10), jnp.int32)
    return weights.tensors("clip", TINY, random_variables(TINY, x, tokens))


HEADS = {
    "text_config": {"num_attention_heads": 2, "eos_token_id": 49, "vocab_size": 50},
    "vision_config": {"num_attention_heads": 2},
}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_clip_round_trip_and_names(clip):
    module, variables = weights.load("clip", clip, **HEADS)
    assert module == TINY and equal(weights.tensors("clip", module, variables), clip)
    assert clip["vision_model.embeddings.patch_embedding.weight"].shape == (16, 3, 8, 8)
    assert clip["text_model.encoder.layers.1.self_attn.k_proj.weight"].shape == (12, 12)
    assert clip["vision_model.pre_layrnorm.bias"].shape == (16,)
    old = clip | {"text_model.embeddings.position_ids": np.arange(10)[None]}
    assert equal(weights.tensors("clip", *weights.load("clip", old, **HEADS)), old)
    assert (
        weights.load(
            "clip",
            clip,
            text_config={"num_attention_heads": 2, "eos_token_id": 2},
            vision_config={"num_attention_heads": 2},
        )[0].end
        == 49
    )


def test_a_folder_of_clip_is_read_with_its_configuration(tmp_path, clip):
    (tmp_path / "empty").mkdir()
    weights.io.write_safetensors(tmp_path / "model.safetensors", clip)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **HEADS}))
    assert weights.load("clip", tmp_path)[0] == TINY
    with pytest.raises(UserError, match=r"no model.safetensors"):
        weights.load("clip", tmp_path / "empty")


def test_wrong_clip_files(clip):
    for tensors, fields, words in (
        ({"a": np.zeros(1)}, {}, "no tensor 'text_model.embeddings"),
        (clip, {"heads": 2}, "unknown field 'heads'"),
        (clip, {"text_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
        (clip, {"text_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps"),
        (clip, {"text_config": {"num_attention_heads": 5}}, "heads must divide"),
        ({k: v for k, v in clip.items() if k != "logit_scale"}, HEADS, "lacks 1 tensor"),
    ):
        with pytest.raises(UserError, match=words):
            weights.load("clip", tensors, **fields)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2_round_trip(gated):
    module = DINOv2(patch=2, width=8, depth=2, heads=2, hidden=12, gated=gated, grid=3)
    tensors = weights.tensors("dinov2", module, random_variables(module, jnp.zeros((1, 2, 2, 3))))
    back = weights.load("dinov2", tensors, num_heads=2)
    assert back[0] == module and equal(weights.tensors("dinov2", *back), tensors)
    assert tensors["pos_embed"].shape == (1, 10, 8) and tensors["cls_token"].shape == (1, 1, 8)
    assert tensors["mask_token"].shape == (1, 8) and tensors["blocks.1.attn.qkv.bias"].shape == (
        24,
    )
    inner = "blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight"
    assert tensors[inner].shape == ((24, 8) if gated else (12, 8))
    for wrong, words in (
        (tensors | {"register_tokens": np.zeros((1, 4, 8))}, "has registers"),
        ({"x": np.zeros(1)}, "no tensor 'patch_embed"),
        (tensors | {"head.weight": np.zeros(1)}, "unknown 1 tensor"),
    ):
        with pytest.raises(UserError, match=words):
            weights.load("dinov2", wrong, num_heads=2)
    with pytest.raises(UserError, match="unknown field 'depth'"):
        weights.load("dinov2", tensors, depth=2)


@pytest.mark.parametrize("net, slices", [("alex", 5), ("vgg", 5), ("squeeze", 7)])
def test_lpips_round_trip_whole_and_in_parts(net, slices):
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = random_variables(LPIPS(net), x, x)
    tensors = weights.tensors("lpips", LPIPS(net), variables)
    module, back = weights.load("lpips", tensors)
    assert module == LPIPS(net) and equal(weights.tensors("lpips", module, back), tensors)
    last = max(k for k in tensors if k.startswith("net."))
    assert last.startswith(f"net.slice{slices}.") and f"lins.{slices - 1}.model.1.weight" in tensors
    if net == "vgg":
        assert {"net.slice1.2.weight", "net.slice3.14.bias", "net.slice5.28.bias"} <= tensors.keys()
    parts = {f"features.{k.split('.', 2)[2]}": v for k, v in tensors.items() if k[:4] == "net."}
    parts |= {k: v for k, v in tensors.items() if k.startswith("lin") and "lins" not in k}
    parts["classifier.1.bias"] = np.zeros(3)
    assert equal(weights.tensors("lpips", *weights.load("lpips", parts, net=net)), tensors)
    bare = {k: v for k, v in parts.items() if "features" in k}
    with pytest.raises(UserError, match="give both files"):
        weights.load("lpips", bare)
    with pytest.raises(UserError, match="net is given as 'other'"):
        weights.load("lpips", tensors, net="other")
    with pytest.raises(UserError, match=r"scaling_layer\.shift"):
        weights.load("lpips", tensors | {"scaling_layer.shift": np.zeros((1, 3, 1, 1))})
