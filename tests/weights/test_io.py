"""Tensor files: what is read, what is refused, nothing half written."""

import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.weights.io import read_tensors, write_safetensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.c": np.array([1.5, -2.0], jnp.bfloat16),
    "d": np.array(3, np.int64),
}


def test_safetensors_round_trip_also_of_strided_views(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    write_safetensors(path, TENSORS | {"t": TENSORS["a"].T})
    found = read_tensors(str(path))
    assert found.keys() == {*TENSORS, "t"}
    for name, want in (TENSORS | {"t": TENSORS["a"].T}).items():
        assert found[name].dtype == want.dtype
        np.testing.assert_array_equal(found[name], want)
    assert os.listdir(tmp_path / "new") == ["x.safetensors"]


def wrong_file(tmp_path, kind):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "cut.safetensors":
        whole = tmp_path / "whole.safetensors"
        write_safetensors(whole, TENSORS)
        path.write_bytes(whole.read_bytes()[:-5])
    elif kind != "absent.safetensors":
        path.write_bytes(pickle.dumps(TENSORS))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent.safetensors", "does not exist"),
        ("folder", "is a folder"),
        ("cut.safetensors", "no readable safetensors file"),
        ("pickle.safetensors", "no readable safetensors file"),
        ("pickle.pkl", "pickles above all, are never opened"),
        ("pickle.pt", "needs torch|would need a pickle"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, kind, words):
    with pytest.raises(UserError, match=words) as caught:
        read_tensors(wrong_file(tmp_path, kind))
    assert kind in str(caught.value) and "\n" not in str(caught.value)


def test_unwritable_paths_leave_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_safetensors(tmp_path / "file" / "x.safetensors", TENSORS)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_safetensors(tmp_path / "taken", TENSORS)
    assert sorted(os.listdir(tmp_path)) == ["file", "taken"]


@pytest.mark.parity
@pytest.mark.parametrize("wrapper", [None, "ema", "model"])
def test_torch_files_are_read_without_pickle(tmp_path, wrapper):
    torch = pytest.importorskip("torch")
    import argparse

    tensors = {name: torch.ones(2, 3) for name in "ab"} | {"h": torch.ones(2).bfloat16()}
    whole = tensors if wrapper is None else {wrapper: tensors, "args": argparse.Namespace(lr=1)}
    torch.save(whole, tmp_path / "x.pt")
    found = read_tensors(str(tmp_path / "x.pt"))
    assert found.keys() == tensors.keys() and found["h"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["a"], np.ones((2, 3)))

    torch.save({"a": tensors["a"], "code": os.getcwd}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="would need a pickle"):
        read_tensors(str(tmp_path / "bad.pt"))
