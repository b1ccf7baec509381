"""DiT and SiT state dicts: the reference's outputs, lossless round trips, wrong files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.core.errors import UserError
from genjax.core.tree import flatten
from genjax.models.dit import DiT
from genjax.weights import dit
from tests.weights.recipe import golden
from tests.weights.recipe import weights as filled

META, GOLDEN = golden("dit")


def state_dict(**changes):
    """Returns the golden's tensors at its configuration with `changes`, and the configuration."""
    config = {**META["config"], **changes}
    shapes = dit.shapes(config)
    tensors = filled(shapes)
    side = config["input_size"] // config["patch_size"]
    module = dit.module_of(config)
    tensors["pos_embed"] = module.positions(side, side)[None].copy()
    return tensors, config


def relative(found, want):
    return np.abs(found - want).max() / np.abs(want).max()


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def test_shapes_are_those_of_the_golden():
    shapes = {name: tuple(shape) for name, shape in META["shapes"].items()}
    assert dit.shapes(META["config"]) == shapes


def test_forward_and_guided_forward_are_the_reference_s():
    tensors, config = state_dict()
    module, variables = weights.load("facebook-dit", tensors, **config)
    x, t, y = (jnp.asarray(GOLDEN[k]) for k in ("x", "t", "y"))
    x = x.transpose(0, 2, 3, 1)
    out = module.apply(variables, x, t, y)
    assert relative(nchw(out), GOLDEN["out"]) < 2e-5

    null = jnp.full_like(y, config["num_classes"])
    both = module.apply(
        variables, jnp.tile(x, (2, 1, 1, 1)), jnp.tile(t, 2), jnp.concatenate([y, null])
    )
    cond, uncond = np.split(nchw(both), 2)
    guided = uncond[:, :3] + 4.0 * (cond[:, :3] - uncond[:, :3])
    want = GOLDEN["out_cfg"]
    assert relative(np.concatenate([guided, guided]), want[:, :3]) < 2e-5
    assert relative(np.concatenate([cond, uncond])[:, 3:], want[:, 3:]) < 2e-5


def test_a_file_without_the_fixed_table_or_with_another_one_is_the_same_network():
    tensors, config = state_dict()
    variants = [
        {k: v for k, v in tensors.items() if k != "pos_embed"},
        tensors | {"pos_embed": np.zeros_like(tensors["pos_embed"])},
    ]
    x, t, y = GOLDEN["x"].transpose(0, 2, 3, 1), GOLDEN["t"], GOLDEN["y"]
    for variant, warned in zip(variants, (False, True)):
        with warnings_expected(warned):
            module, variables = weights.load("facebook-dit", variant, **config)
        out = module.apply(variables, x, jnp.asarray(t), jnp.asarray(y))
        assert relative(nchw(out), GOLDEN["out"]) < 2e-5
        saved = weights.tensors("facebook-dit", module, variables)
        assert same(saved, variant)


def warnings_expected(expected):
    import contextlib
    import warnings

    if expected:
        return pytest.warns(UserWarning, match="pos_embed is not the fixed")
    quiet = contextlib.ExitStack()
    quiet.enter_context(warnings.catch_warnings())
    warnings.simplefilter("error")
    return quiet


def same(found, want):
    return found.keys() == want.keys() and all(
        found[k].dtype == want[k].dtype and np.array_equal(found[k], want[k]) for k in want
    )


@pytest.mark.parametrize("format", ["facebook-dit", "sit"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 4, "hidden_size": 64, "depth": 2, "num_heads": 2, "input_size": 16},
        {"learn_sigma": False, "in_channels": 3, "mlp_ratio": 2.5},
        {"class_dropout_prob": 0.0, "num_classes": 7},
    ],
    ids=["golden", "size-and-patch", "no-sigma", "no-null-label"],
)
def test_what_is_saved_is_what_was_loaded(tmp_path, format, changes):
    tensors, config = state_dict(**changes)
    module, variables = weights.load(format, tensors, **config)
    path = str(tmp_path / "out.safetensors")
    weights.save(format, module, variables, path)
    assert same(weights.io.read_tensors(path), tensors)

    # The tree is exactly what the module itself initialises.
    c = config["in_channels"]
    x = jnp.zeros((1, config["input_size"], config["input_size"], c))
    fresh = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1), jnp.zeros(1, int))
    want = {k: v.shape for k, v in flatten(jax.tree.map(lambda p: p, fresh["params"])).items()}
    found = {k: v.shape for k, v in flatten(variables["params"]).items()}
    assert found == {k.removesuffix("/value"): v for k, v in want.items()}
    assert module.null_label == (config["class_dropout_prob"] > 0)
    out = module.apply(variables, x, jnp.ones(1), jnp.array([6]))
    doubled = config["learn_sigma"] and format == "facebook-dit"
    assert out.shape == (*x.shape[:-1], c * (1 + doubled))


def test_tensors_tell_the_configuration():
    tensors, config = state_dict(learn_sigma=False, patch_size=4, mlp_ratio=2.0)
    module, _ = weights.load("facebook-dit", tensors, num_heads=config["num_heads"])
    assert dit.module_of(config) == module
    published = dit.shapes({**META["config"], "hidden_size": 384, "depth": 12, "num_heads": 6})
    empty = {name: np.zeros(shape, np.float16) for name, shape in published.items()}
    empty["pos_embed"] = DiT(width=384).positions(4, 4)[None]
    assert weights.load("facebook-dit", empty)[0].heads == 6


def test_half_precision_survives(tmp_path):
    tensors, config = state_dict()
    half = {k: v.astype(jnp.bfloat16) for k, v in tensors.items()}
    weights.io.write_safetensors(tmp_path / "half.safetensors", half)
    module, variables = weights.load("facebook-dit", tmp_path / "half.safetensors", **config)
    assert same(weights.tensors("facebook-dit", module, variables), half)
    x, t, y = GOLDEN["x"].transpose(0, 2, 3, 1), GOLDEN["t"], GOLDEN["y"]
    out = module.apply(variables, x, jnp.asarray(t), jnp.asarray(y))
    assert out.dtype == jnp.float32 and relative(nchw(out), GOLDEN["out"]) < 0.05


def test_sit_drops_the_second_set_of_channels():
    tensors, config = state_dict()
    both, plain = (weights.load(f, tensors, **config) for f in ("facebook-dit", "sit"))
    x, t, y = GOLDEN["x"].transpose(0, 2, 3, 1), jnp.linspace(0, 1, 3), jnp.asarray(GOLDEN["y"])
    want = both[0].apply(both[1], x, t, y)[..., :4]
    np.testing.assert_allclose(plain[0].apply(plain[1], x, t, y), want, rtol=0, atol=1e-6)


def test_a_network_trained_here_is_written_with_its_positions():
    module = DiT(patch=2, width=16, depth=1, heads=2, num_classes=3)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))[
        "params"
    ]
    variables = {"params": params, "constants": dit.constants(module, (8, 8))}
    tensors = weights.tensors("facebook-dit", module, variables)
    again, loaded = weights.load("facebook-dit", tensors, num_heads=2)
    assert again == module and tensors["pos_embed"].shape == (1, 16, 16)
    for path, leaf in flatten(loaded["params"]).items():
        np.testing.assert_array_equal(leaf, flatten(jax.device_get(params))[path + "/value"])
    with pytest.raises(UserError, match="QK-norm"):
        weights.tensors("sit", dataclasses.replace(module, qk_norm=True), variables)


def edited(name, value=None):
    tensors, _ = state_dict()
    tensors.pop(name)
    return tensors if value is None else tensors | {name: value}


@pytest.mark.parametrize(
    ("tensors", "fields", "words"),
    [
        (edited("blocks.1.mlp.fc2.bias"), {}, "lacks 1 tensor.*blocks.1.mlp.fc2.bias"),
        (edited("pos_embed") | {"head.weight": np.ones(2)}, {}, "unknown 1 tensor.*head.weight"),
        (
            edited("blocks.2.attn.proj.weight", np.ones((48, 24), np.float32)),
            {},
            r"blocks.2.attn.proj.weight has shape \(48, 24\).*needs \(48, 48\)",
        ),
        (edited("x_embedder.proj.weight"), {}, "no tensor x_embedder.proj.weight"),
        (state_dict()[0], {"depth": 4}, "depth is given as 4, but the tensors are those of 3"),
        (state_dict()[0], {"heads": 4}, "unknown field 'heads'"),
        (state_dict()[0], {"num_heads": 5}, "num_heads 5 does not divide 48"),
        (state_dict()[0], {"num_heads": None}, "give num_heads"),
        ({}, {}, "starts with nothing"),
    ],
)
def test_wrong_files_are_one_line_that_names_the_tensor(tensors, fields, words):
    fields = {"num_heads": 4} | fields
    fields = {k: v for k, v in fields.items() if v is not None}
    with pytest.raises(UserError, match=words):
        weights.load("facebook-dit", tensors, **fields)


def test_unknown_format():
    with pytest.raises(UserError, match="'dit' is no weight format; choose one of facebook-dit"):
        weights.load("dit", {})
