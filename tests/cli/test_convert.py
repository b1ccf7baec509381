"""`genjax convert`: public weights in and back out, and wrong requests."""

import numpy as np
import pytest

from genjax.cli.main import main
from genjax.models.dit import DiT
from genjax.weights import dit, native
from genjax.weights.io import read_tensors, write_safetensors
from tests.weights.recipe import weights

CONFIG = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "num_classes": 5,
    "learn_sigma": True,
    "class_dropout_prob": 0.1,
}


@pytest.fixture
def public(tmp_path):
    tensors = weights(dit.shapes(CONFIG))
    tensors["pos_embed"] = DiT(width=16, heads=2).positions(4, 4)[None]
    write_safetensors(tmp_path / "public.safetensors", tensors)
    return str(tmp_path / "public.safetensors"), tensors


@pytest.mark.parametrize("format", ["facebook-dit", "sit"])
def test_in_and_back_out_gives_the_same_tensors(tmp_path, capsys, public, format):
    path, tensors = public
    folder, out = str(tmp_path / "converted"), str(tmp_path / "out.safetensors")
    heads = ["--field", "num_heads=2"]
    assert main(["convert", "--from", format, "--in", path, "--out", folder, *heads]) == 0
    module, _, facts = native.read_native(folder)
    assert (module.heads, module.num_classes) == (2, 5)
    assert facts["format"] == format and facts["shape"] == [8, 8, 4]
    assert "DiT with" in capsys.readouterr().out
    assert main(["convert", "--to", format, "--in", folder, "--out", out]) == 0
    found = read_tensors(out)
    assert found.keys() == tensors.keys()
    for name, want in tensors.items():
        np.testing.assert_array_equal(found[name], want)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--in", "{public}", "--out", "{new}"], "give --from FORMAT"),
        (["--from", "dit", "--in", "{public}", "--out", "{new}"], "'dit' is no weight format"),
        (["--from", "sit", "--in", "{public}", "--out", "{new}"], "give num_heads"),
        (["--from", "sit", "--in", "{new}", "--out", "{new}"], "does not exist"),
        (["--from", "sit", "--in", "{public}", "--out", "{new}", "--field", "x"], "NAME=VALUE"),
        (
            ["--from", "sit", "--in", "{public}", "--out", "{public}", "--field", "num_heads=2"],
            "is a file; give a folder",
        ),
        (["--to", "sit", "--in", "{public}", "--out", "{new}", "--field", "a=1"], "needs --from"),
        (["--from", "sit", "--out", "{new}"], "--in"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, public, flags, words):
    names = {"{public}": public[0], "{new}": str(tmp_path / "new")}
    assert main(["convert", *(names.get(flag, flag) for flag in flags)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("genjax: error: ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert not (tmp_path / "new").exists()
