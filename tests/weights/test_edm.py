"""EDM's state dicts: the references' outputs, lossless round trips, wrong files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.core.errors import UserError
from genjax.core.tree import flatten, nested
from genjax.models import MODELS
from genjax.models.unet import UNet
from genjax.weights import edm
from genjax.weights.layout import parameter_shapes
from tests.weights.recipe import golden
from tests.weights.recipe import weights as filled

TINY = {"channels": 16, "channel_mult": (1, 2), "blocks": 2, "attention": (8,)}


def state_dict(name):
    """Returns the golden's tensors (with the buffers that its reference builds), config, arrays."""
    meta, arrays = golden(name)
    tensors = filled(meta["shapes"])
    for key in tensors:
        if key.endswith("resample_filter"):
            taps = [1, 3, 3, 1] if tensors[key].shape[-1] == 4 else [1, 1]
            tensors[key] = (np.outer(taps, taps) / sum(taps) ** 2).astype(np.float32)[None, None]
        if f"buffer.{key}" in arrays:
            tensors[key] = arrays[f"buffer.{key}"]
    return tensors, meta["config"], arrays


def same(found, want):
    return found.keys() == want.keys() and all(
        found[k].dtype == want[k].dtype and np.array_equal(found[k], want[k]) for k in want
    )


def error(module, variables, arrays, label=None):
    """Returns the largest difference of the output over the golden's largest value."""
    x, want = arrays["x"].transpose(0, 2, 3, 1), arrays["out"]
    out = jax.jit(module.apply)(variables, x, arrays["t"], label)
    return np.abs(np.asarray(out).transpose(0, 3, 1, 2) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm"])
def test_forward_is_the_reference_s(name):
    tensors, config, arrays = state_dict(name)
    module, variables = weights.load("edm", tensors, **config)
    label = jnp.asarray(arrays["label"].argmax(1)) if "label" in arrays else None
    assert error(module, variables, arrays, label) < 1e-5
    assert same(weights.tensors("edm", module, variables), tensors)
    # The tensors tell all of the configuration.
    assert weights.load("edm", tensors)[0] == module
    assert weights.facts("edm", module, variables)["shape"] == [16, 16, 3]


def trained_here(variant, side=16, **fields):
    """Returns a network and random parameters, as if it had been trained here."""
    module = MODELS.build({"name": "unet", "variant": variant, **TINY, **fields})
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(module, (side, side, 3))
    params = {k: rng.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
    constants = weights.constants("edm", module, (side, side))
    return module, {"params": nested(params), "constants": constants}


@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("edm-ddpmpp", {"num_classes": 10, "channel_mult": (2, 2, 2)}),
        ("edm-ncsnpp", {"channel_mult": (1, 2, 4), "blocks": 3, "attention": (16, 4)}),
        ("ncsnpp-1024", {}),
        ("ncsnpp-1024", {"progressive_input": "none", "noise_mult": 1}),
        ("adm-64", {"channels": 64, "num_classes": 0, "augment": 9}),
        ("adm-64", {"channels": 64, "channel_mult": (1, 2, 3), "num_classes": 5}),
    ],
)
def test_other_configurations_round_trip(tmp_path, variant, fields):
    module, variables = trained_here(variant, **fields)
    path = str(tmp_path / "out.safetensors")
    weights.save("edm", module, variables, path)
    again, loaded = weights.load("edm", path)
    assert again == module
    tensors = weights.io.read_tensors(path)
    assert same(weights.tensors("edm", again, loaded), tensors)
    assert same(flatten(loaded["params"]), flatten(variables["params"]))


def test_names_of_the_image_pyramids():
    module, variables = trained_here("ncsnpp-1024")
    names = weights.tensors("edm", module, variables)
    for name, shape in {
        "enc.8x8_aux_down.resample_filter": (1, 1, 4, 4),
        "enc.8x8_aux_skip.weight": (16, 3, 1, 1),
        "dec.16x16_aux_up.resample_filter": (1, 1, 4, 4),
        "dec.8x8_aux_norm.weight": (32,),
        "dec.8x8_aux_conv.weight": (3, 32, 3, 3),
        "dec.16x16_aux_conv.weight": (3, 16, 3, 3),
    }.items():
        assert names[name].shape == shape, name


def test_a_preconditioner_s_prefix_and_missing_filters_survive():
    tensors, _, arrays = state_dict("ncsnpp")
    bare = {f"model.{k}": v for k, v in tensors.items() if not k.endswith("resample_filter")}
    module, variables = weights.load("edm", bare, resample_filter=[1, 3, 3, 1])
    assert same(weights.tensors("edm", module, variables), bare)
    assert error(module, variables, arrays) < 1e-5


def test_half_precision_survives():
    tensors, _, _ = state_dict("adm")
    half = {k: v.astype(np.float16) for k, v in tensors.items()}
    module, variables = weights.load("edm", half)
    assert same(weights.tensors("edm", module, variables), half)


def edited(name, value=None, golden="ddpmpp"):
    tensors, _, _ = state_dict(golden)
    tensors.pop(name)
    return tensors if value is None else tensors | {name: value}


@pytest.mark.parametrize(
    ("tensors", "fields", "words"),
    [
        (edited("enc.8x8_block0.conv1.bias"), {}, "lacks 1 tensor.*enc.8x8_block0.conv1.bias"),
        (edited("map_layer0.weight"), {}, "no tensor map_layer0.weight with 2 axes"),
        (
            edited("dec.8x8_in0.affine.bias", np.ones(3, np.float32)),
            {},
            r"dec.8x8_in0.affine.bias has shape \(3,\).*needs \(64,\)",
        ),
        (
            edited("dec.16x16_up.skip.resample_filter", np.ones((1, 1, 2, 2), np.float32)),
            {},
            "dec.16x16_up.skip.resample_filter is not the filter",
        ),
        (state_dict("adm")[0], {"num_blocks": 4}, "num_blocks is given as 4.*those of 1"),
        (state_dict("adm")[0], {"sigma_data": 0.5}, "unknown field 'sigma_data'"),
        ({}, {}, "starts with nothing"),
    ],
)
def test_wrong_files_are_one_line_that_names_the_tensor(tensors, fields, words):
    with pytest.raises(UserError, match=words):
        weights.load("edm", tensors, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"center": True}, "cannot hold this network's center"),
        ({"block": "ddpm"}, "cannot hold this network's block"),
        ({"progressive_output": "residual"}, "cannot hold this network's progressive_output"),
    ],
)
def test_what_the_format_cannot_hold(fields, words):
    with pytest.raises(UserError, match=words):
        edm.save(UNet(**fields), {"params": {}})
    with pytest.raises(UserError, match="give constants"):
        edm.save(UNet(), {"params": {}})
