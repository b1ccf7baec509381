"""score_sde_pytorch's state dicts: its outputs, lossless round trips, wrong files.

The golden was made by that repository's networks (Apache-2.0) on a CPU at `recipe`'s weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.core.errors import UserError
from genjax.core.tree import nested
from genjax.models.unet import UNet
from genjax.weights import score_sde
from genjax.weights.layout import parameter_shapes
from tests.weights.recipe import golden
from tests.weights.recipe import weights as filled

META, GOLDEN = golden("score_sde")
CASES = META["cases"]


def state_dict(name):
    tensors = filled(CASES[name]["shapes"])
    tensors["sigmas"] = GOLDEN[f"{name}.sigmas"]
    for key, value in tensors.items():
        if key.endswith(".W") and value.ndim == 1:
            tensors[key] = (4 * value).astype(np.float32)  # frequencies of the order of the real
    return tensors


def same(found, want):
    return found.keys() == want.keys() and all(
        found[k].dtype == want[k].dtype and np.array_equal(found[k], want[k]) for k in want
    )


@pytest.mark.parametrize("name", CASES)
def test_forward_is_the_reference_s(name):
    tensors, config = state_dict(name), CASES[name]["config"]
    module, variables = weights.load("score-sde", tensors, **config)
    x, t, want = (GOLDEN[f"{name}.{key}"] for key in ("x", "t", "out"))
    time = jnp.log(t) if module.embedding == "fourier" else jnp.asarray(t)
    out = np.asarray(jax.jit(module.apply)(variables, x.transpose(0, 2, 3, 1), time))
    out = out.transpose(0, 3, 1, 2)
    if config["scale_by_sigma"]:
        out = out / t[:, None, None, None]
    assert np.abs(out - want).max() < 1e-5 * np.abs(want).max()
    assert same(weights.tensors("score-sde", module, variables), tensors)


@pytest.mark.parametrize("name", CASES)
def test_tensors_tell_the_configuration(name):
    fields = {
        "ddpm_blocks": {"name": "ncsnpp", "fir": False, "centered": True, "scale_by_sigma": False}
    }.get(name, {})
    tensors = state_dict(name)
    want, _ = weights.load("score-sde", tensors, **CASES[name]["config"])
    parallel = {f"module.{k}": v for k, v in tensors.items()}
    found, variables = weights.load("score-sde", parallel, image_size=16, **fields)
    assert found == want
    assert same(weights.tensors("score-sde", found, variables), parallel)


def test_facts_say_what_a_config_needs():
    module, variables = weights.load("score-sde", state_dict("residual"), image_size=16)
    assert weights.facts("score-sde", module, variables) == {
        "format": "score-sde",
        "shape": [16, 16, 3],
        "data_range": [0.0, 1.0],
        "precond": {"name": "eps", "negative": True, "time": "log_sigma"},
        "process": {"name": "ve", "sigma_min": pytest.approx(0.01), "sigma_max": pytest.approx(50)},
    }
    module, variables = weights.load("score-sde", state_dict("ddpmpp"), image_size=16)
    found = weights.facts("score-sde", module, variables)
    assert found["precond"] == {"name": "eps", "time_scale": 999.0}
    assert found["data_range"] == [-1.0, 1.0] and "process" not in found


def test_a_discrete_ve_network_must_be_given_as_one():
    tensors = state_dict("residual")
    tensors = {
        f"all_modules.{int(k.split('.')[1]) - 1}.{k.split('.', 2)[2]}": v
        for k, v in tensors.items()
        if k not in ("sigmas", "all_modules.0.W")
    }
    tensors["all_modules.0.weight"] = tensors["all_modules.0.weight"][:, :16]
    with pytest.raises(UserError, match="give scale_by_sigma and centered"):
        weights.load("score-sde", tensors, image_size=16)
    ve = {"image_size": 16, "scale_by_sigma": True, "centered": False}
    module, variables = weights.load("score-sde", tensors, **ve)
    assert module.embedding == "sin_cos" and module.center
    found = weights.facts("score-sde", module, variables)
    assert found["precond"]["time"] == "reverse" and found["precond"]["negative"]


def test_a_network_trained_here_is_written():
    module = UNet(channels=16, channel_mult=(1, 2), blocks=2, attention=(8,), center=True)
    shapes = parameter_shapes(module, (16, 16, 3))
    params = {k: np.full(v, 0.1, np.float32) for k, v in shapes.items()}
    variables = {
        "params": nested(params),
        "constants": weights.constants("score-sde", module, (16, 16)),
    }
    tensors = weights.tensors("score-sde", module, variables)
    assert weights.load("score-sde", tensors, image_size=16, centered=False)[0] == module
    with pytest.raises(UserError, match="cannot hold this network's num_classes"):
        score_sde.save(UNet(num_classes=3), variables)
    with pytest.raises(UserError, match="give constants"):
        score_sde.save(module, {"params": variables["params"]})


def edited(name, value=None, case="ddpmpp"):
    tensors = state_dict(case)
    tensors.pop(name)
    return tensors if value is None else tensors | {name: value}


@pytest.mark.parametrize(
    ("tensors", "fields", "words"),
    [
        (edited("all_modules.3.Conv_0.bias"), {}, "lacks 1 tensor.*all_modules.3.Conv_0.bias"),
        (state_dict("ddpm"), {"num_res_blocks": 3}, "num_res_blocks is given as 3.*those of 2"),
        (state_dict("ddpm"), {"scale_by_time": True}, "unknown field 'scale_by_time'"),
        (state_dict("skip"), {"nonlinearity": "elu"}, "only 'swish' is supported"),
        ({"head.weight": np.ones(2)}, {}, "starts with head.weight"),
        ({}, {}, "starts with nothing"),
    ],
)
def test_wrong_files_are_one_line(tensors, fields, words):
    with pytest.raises(UserError, match=words):
        weights.load("score-sde", tensors, **{"image_size": 16, **fields})
