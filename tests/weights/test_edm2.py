"""EDM2 state dicts: the reference's outputs, lossless round trips, wrong files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.core.errors import UserError
from genjax.core.tree import flatten
from genjax.models import MODELS
from genjax.weights import edm2, native
from tests.weights.recipe import golden
from tests.weights.recipe import weights as filled

META, GOLDEN = golden("edm2")
STACKED = {"model_channels": 8, "channel_mult": [1, 2, 2], "num_blocks": 3, "label_dim": 0}


def state_dict(**changes):
    """Returns the golden's tensors at its configuration with `changes`, and the configuration."""
    config = {**META["config"], **changes}
    if "model_channels" in changes:
        config["channels_per_head"] = 8
    tensors = filled(edm2.shapes(complete(config)))
    for name, tensor in tensors.items():
        if tensor.ndim == 0:
            tensors[name] = np.asarray(0.7, np.float32)
        stored = GOLDEN.get(f"buffer.{name}")
        if stored is not None and stored.shape == tensor.shape:
            tensors[name] = stored
    return tensors, config


def complete(config):
    return {"channels_per_head": 64, "dropout": 0.0, **config}


def relative(found, want):
    return np.abs(found - want).max() / np.abs(want).max()


def same(found, want):
    return found.keys() == want.keys() and all(
        found[k].dtype == want[k].dtype
        and found[k].shape == want[k].shape
        and np.array_equal(found[k], want[k])
        for k in want
    )


def apply(module, variables, **fixed):
    x = jnp.asarray(GOLDEN["x"].transpose(0, 2, 3, 1))
    label = jnp.asarray(GOLDEN["label"].argmax(1)) if module.num_classes else None
    run = jax.jit(functools.partial(module.apply, **fixed))
    return run(variables, x, jnp.asarray(GOLDEN["sigma"]), label)


def test_shapes_are_those_of_the_golden():
    shapes = {name: tuple(shape) for name, shape in META["shapes"].items()}
    assert edm2.shapes(complete(META["config"])) == shapes


def test_denoiser_and_log_variance_are_the_reference_s(tmp_path):
    tensors, config = state_dict()
    weights.io.write_safetensors(tmp_path / "edm2.safetensors", tensors)
    module, variables = weights.load("edm2", tmp_path / "edm2.safetensors", **config)
    out, features = apply(module, variables, features=("logvar",))
    assert relative(np.asarray(out).transpose(0, 3, 1, 2), GOLDEN["out"]) < 1e-5
    assert relative(features["logvar"], GOLDEN["logvar"].ravel()) < 1e-5


@pytest.mark.parametrize("changes", [{}, STACKED, {"attn_resolutions": [], "img_channels": 3}])
def test_what_is_saved_is_what_was_loaded(tmp_path, changes):
    tensors, config = state_dict(**changes)
    module, variables = weights.load("edm2", tensors, **config)
    path = str(tmp_path / "out.safetensors")
    weights.save("edm2", module, variables, path)
    assert same(weights.io.read_tensors(path), tensors)

    # The tree is exactly what the module itself initialises, and a folder keeps it.
    x = jnp.zeros((1, 16, 16, config["img_channels"]))
    fresh = jax.eval_shape(module.init, jax.random.key(0), x, jnp.ones(1), jnp.zeros(1, int))
    want = {k.removesuffix("/value"): v.shape for k, v in flatten(fresh["params"]).items()}
    assert {k: v.shape for k, v in flatten(variables["params"]).items()} == want
    facts = weights.facts("edm2", module, variables)
    assert facts == {"format": "edm2", "shape": [16, 16, config["img_channels"]]}
    native.write_native(str(tmp_path / "folder"), module, variables, facts)
    again, loaded, _ = native.read_native(str(tmp_path / "folder"))
    assert again == module and same(weights.tensors("edm2", again, loaded), tensors)


def test_blocks_are_stacked_in_their_order():
    tensors, config = state_dict(**STACKED)
    _, variables = weights.load("edm2", tensors, **config)
    stack = variables["params"]["dec1_block0_to_2"]
    for i, name in enumerate(f"unet.dec.8x8_block{i}" for i in range(3)):
        conv = tensors[f"{name}.conv_res0.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(stack["conv0"]["kernel"][i], conv)
        pointwise = tensors[f"{name}.attn_qkv.weight"][:, :, 0, 0].T
        np.testing.assert_array_equal(stack["qkv"]["kernel"][i], pointwise)


def test_tensors_tell_the_configuration():
    tensors, _ = state_dict()
    module, variables = weights.load("edm2", tensors)
    assert module == weights.load("edm2", tensors, **META["config"])[0]
    assert module == MODELS.build({
        "name": "edm2_denoiser", "width": 32, "multipliers": (1, 2), "blocks": 1,
        "attention_levels": (1,), "num_classes": 5,
    })  # fmt: skip
    half, _ = weights.load("edm2", tensors, use_fp16=True, sigma_data=1.0, clip_act=256)
    assert half.dtype == "bfloat16" and half.sigma_data == 1.0
    assert weights.constants("edm2", module, (16, 16)) == variables["constants"]


def edited(name, value=None):
    tensors, _ = state_dict()
    tensors.pop(name)
    return tensors if value is None else tensors | {name: value}


@pytest.mark.parametrize(
    ("tensors", "fields", "words"),
    [
        (edited("unet.dec.16x16_up.conv_res1.weight"), {}, "lacks 1 tensor.*16x16_up.conv_res1"),
        (edited("unet.out_gain", np.ones(1, np.float32)), {}, r"out_gain has shape \(1,\)"),
        (
            edited("unet.out_gain") | {"unet.out_gain": np.float32(1), "a": np.ones(2)},
            {},
            "unknown",
        ),
        (state_dict()[0], {"num_blocks": 3}, "num_blocks is given as 3, but the tensors are .* 1"),
        (state_dict()[0], {"model_channels": 48}, "model_channels is given as 48, which does not"),
        (state_dict()[0], {"attn_resolutions": [16]}, "attn_resolutions is given as"),
        (state_dict()[0], {"label_balance": 0.3}, "label_balance is 0.5 in EDM2 networks, not 0.3"),
        (state_dict()[0], {"width": 32}, "unknown field 'width'"),
        ({}, {}, "starts with nothing"),
    ],
)
def test_wrong_files_are_one_line_that_names_the_tensor(tensors, fields, words):
    with pytest.raises(UserError, match=words):
        weights.load("edm2", tensors, **fields)
