"""The FID network through its importer: the reference's features and distance, wrong files."""

import jax
import numpy as np
import pytest

from genjax import weights
from genjax.core import tree
from genjax.core.errors import UserError
from genjax.evaluation.frechet import frechet
from genjax.evaluation.statistics import of_features
from tests.weights.recipe import golden
from tests.weights.recipe import weights as filled

META, GOLDEN = golden("fid_inception")


@pytest.fixture(scope="module")
def tensors():
    return filled(META["shapes"])


@pytest.fixture(scope="module")
def loaded(tensors):
    return weights.load("fid-inception", tensors)


@pytest.fixture(scope="module")
def outputs(loaded):
    module, variables = loaded
    return jax.device_get(jax.jit(module.apply)(variables, GOLDEN["images"]))


def relative(found, want):
    return np.abs(found - want).max() / np.abs(want).max()


@pytest.mark.parametrize("name", ["block0", "block1", "block2", "pool3"])
def test_features_are_the_reference_s(outputs, name):
    assert outputs[name].shape == GOLDEN[name].shape and outputs[name].dtype == np.float32
    assert relative(outputs[name], GOLDEN[name]) < 1e-4


def test_distance_of_the_two_sets_of_features(outputs):
    want = float(GOLDEN["frechet"])
    stored = frechet(of_features(GOLDEN["pool3"]), of_features(GOLDEN["other_pool3"]))
    assert stored == pytest.approx(want, abs=1e-6)  # the reference's own square root: 5e-7
    own = frechet(of_features(outputs["pool3"]), of_features(GOLDEN["other_pool3"]))
    assert own == pytest.approx(want, rel=1e-4)


def test_other_outputs(outputs, tensors):
    pool3 = outputs["pool3"].astype(np.float64)
    unbiased = pool3 @ tensors["fc.weight"].T.astype(np.float64)
    np.testing.assert_allclose(outputs["logits_unbiased"], unbiased, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        outputs["logits"] - outputs["logits_unbiased"],
        np.broadcast_to(tensors["fc.bias"], unbiased.shape),
        atol=1e-3,
    )
    assert outputs["spatial"].shape == (6, 17 * 17 * 7) and (outputs["spatial"] >= 0).all()


def test_counts(loaded):
    params = loaded[1]["params"]
    assert tree.size(params) == 23_850_960
    fc = params["fc"]["kernel"].size + params["fc_bias"].size
    assert fc == 2_065_392 and tree.size(params) - fc == 21_785_568
    for name, count in (("5b", 255_904), ("6a", 1_153_280), ("6e", 2_141_952), ("7c", 6_076_800)):
        assert tree.size(params[f"Mixed_{name}"]) == count


def test_what_is_saved_is_what_was_loaded(tmp_path, tensors, loaded):
    weights.save("fid-inception", *loaded, str(tmp_path / "w.safetensors"))
    again = weights.io.read_tensors(str(tmp_path / "w.safetensors"))
    assert again.keys() == tensors.keys() and len(again) == 566
    assert all(np.array_equal(again[k], tensors[k]) for k in tensors)
    bare = {k: v for k, v in tensors.items() if "num_batches" not in k}
    assert (
        weights.tensors("fid-inception", *weights.load("fid-inception", bare)).keys() == bare.keys()
    )


def test_wrong_files_are_one_line(tensors):
    for wrong, fields, words in (
        ({}, {}, "no tensor fc.weight"),
        (tensors, {"resize": 1}, "unknown field 'resize'"),
        (tensors, {"protocol": "mine"}, "protocol is 'mine'"),
        ({k: v for k, v in tensors.items() if k != "Mixed_7c.branch1x1.bn.bias"}, {}, "lacks 1"),
        (tensors | {"AuxLogits.fc.bias": np.zeros(8)}, {}, "unknown 1 tensor.*AuxLogits"),
        (
            tensors | {"Mixed_6b.branch7x7_2.conv.weight": np.zeros((128, 128, 7, 1))},
            {},
            "Mixed_6b.branch7x7_2.conv.weight has shape",
        ),
    ):
        with pytest.raises(UserError, match=words):
            weights.load("fid-inception", wrong, **fields)
