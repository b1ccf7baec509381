"""Every wrong input of `genjax eval` is one line that says what is wrong; few samples are loud."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from genjax.cli import eval as command
from genjax.cli.main import main
from genjax.evaluation import weight_files
from tests.cli.test_eval import Pixels

WEIGHTS = weight_files.NETWORKS["inception"].files[0].name
DIGITS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a folder of inputs, all but `good.npz` wrong in one way, and a stand-in network."""
    np.savez(tmp_path / "good.npz", arr_0=DIGITS)
    np.savez(tmp_path / "empty.npz", arr_0=DIGITS[:0])
    np.savez(tmp_path / "one.npz", arr_0=DIGITS[:1])
    np.savez(tmp_path / "rgb.npz", arr_0=np.repeat(DIGITS, 3, -1))
    np.savez(tmp_path / "key.npz", images=DIGITS)
    np.savez(tmp_path / "float.npz", arr_0=DIGITS / 255)
    np.savez(tmp_path / "moments.npz", mu=np.zeros(16), cov=np.eye(16))
    np.savez(tmp_path / "nan.npz", mu=np.full(16, np.nan), sigma=np.eye(16))
    np.savez(tmp_path / "other.npz", mu=np.zeros(7), sigma=np.eye(7))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:200])
    for name in ("none", "mixed", "broken", "weights"):
        (tmp_path / name).mkdir()
    for i, side in enumerate((8, 8, 9)):
        Image.fromarray(DIGITS[i, :, :, 0]).resize((side, side)).save(tmp_path / f"mixed/{i}.png")
    (tmp_path / "broken" / "0.png").write_bytes(b"no picture")
    (tmp_path / "weights" / WEIGHTS).write_bytes(b"another file")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    means = jnp.zeros((10, 64))
    monkeypatch.setattr(command, "load_classifier", lambda path: (Pixels(), {"means": means}))
    return tmp_path


def evaluate(folder, samples, reference, *more):
    given = ["--samples", str(folder / samples), "--reference", str(folder / reference)]
    kept = ["--cache", "none", "--progress", str(folder / "progress")]
    return main(["eval", *given, *kept, *more, "--json", str(folder / "report.json")])


FID = ("--metrics", "fid", "--extractor", "classifier:c")
INCEPTION = ("--metrics", "fid", "--extractor", "inception")


@pytest.mark.parametrize(
    "samples, reference, more, message",
    [
        ("empty.npz", "good.npz", FID, "empty.npz: holds no images"),
        ("none", "good.npz", FID, "none: holds no images"),
        ("one.npz", "good.npz", FID, "one.npz: one image has no covariance; give more images"),
        ("good.npz", "one.npz", FID, "needs at least two images, not 1; give more images"),
        ("mixed", "good.npz", FID, "mixed: images of several sizes"),
        ("broken", "good.npz", FID, "0.png: is no readable image"),
        ("rgb.npz", "good.npz", FID, "cannot be compared with those of"),
        ("good.npz", "rgb.npz", FID, "bring them to one size and channels"),
        ("key.npz", "good.npz", FID, "expected under the key arr_0; this file has ['images']"),
        ("float.npz", "good.npz", FID, "expected uint8 images [N, H, W, C]"),
        ("cut.npz", "good.npz", FID, "cut.npz: cannot be read as .npz"),
        ("good.npz", "moments.npz", FID, "keys mu and sigma, this file has ['cov', 'mu']"),
        ("good.npz", "nan.npz", FID, "mu or sigma holds values that are not finite"),
        ("good.npz", "other.npz", FID, "its statistics have 7 dimensions"),
        ("absent.npz", "good.npz", FID, "absent.npz: there is no such file or folder"),
        ("good.npz", "good.npz", (*INCEPTION, "--weights-folder", "{}/weights"), "its SHA-256"),
        ("good.npz", "good.npz", (*INCEPTION, "--weights-folder", "{}/none"), f"needs {WEIGHTS}"),
        ("good.npz", "good.npz", (*INCEPTION, "--weights", "{}/bad.safetensors"), "bad.safetens"),
        ("good.npz", "good.npz", ("--metrics", "spread", "--save", "{}/s.npz"), "--save: writes"),
        ("good.npz", "good.npz", (*FID, "--progress", "{}/good.npz/x"), "--progress: "),
    ],
)
def test_one_line_says_what_is_wrong(folder, capsys, samples, reference, more, message):
    assert evaluate(folder, samples, reference, *(a.format(folder) for a in more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("genjax: error: ") and error.count("\n") == 1 and message in error
    assert not (folder / "report.json").exists()


def test_features_that_are_not_finite(folder, capsys, monkeypatch):
    monkeypatch.setattr(
        command, "load_classifier", lambda path: (Pixels(), {"means": jnp.full((10, 64), jnp.nan)})
    )
    np.savez(folder / "labelled.npz", arr_0=DIGITS, labels=np.arange(12) % 10)
    more = ("--metrics", "label_agreement", "--extractor", "classifier:c")
    assert evaluate(folder, "labelled.npz", "good.npz", *more) == 2
    assert "the logits of classifier are not finite" in capsys.readouterr().err


def test_fewer_samples_than_dimensions_are_loud(folder, capsys):
    assert evaluate(folder, "good.npz", "good.npz", *FID) == 0
    assert "WARNING: TOO FEW SAMPLES: 12 for 16 dimensions" in capsys.readouterr().out
    warnings = json.loads((folder / "report.json").read_text())["warnings"]
    assert any("TOO FEW SAMPLES" in w for w in warnings)


def test_a_data_set_as_samples_and_statistics_of_it(folder):
    given = ("--num", "50", *FID, "--save", str(folder / "saved.npz"))
    kept = ["--cache", "none", "--progress", str(folder / "progress"), "--heldout", "none"]
    report = folder / "data.json"
    both = ["--samples", "digits:test", "--reference", "digits", *given, *kept]
    assert main(["eval", *both, "--json", str(report)]) == 0
    first = json.loads(report.read_text())["metrics"]["fid"]
    assert first["n"] == 50 and "grey levels 0..16" in first["protocol"]
    # The saved statistics stand for those images as a reference.
    both[3] = str(folder / "saved.npz")
    again = [*both[:6], *FID, *kept, "--json", str(report)]
    assert main(["eval", *again]) == 0
    second = json.loads(report.read_text())["metrics"]["fid"]
    assert second["value"] < 1e-9 and second["reference_n"] == 50
    # Statistics of another network are refused.
    np.savez(folder / "foreign.npz", mu=np.zeros(16), sigma=np.eye(16),
             protocol=np.str_(json.dumps({"extractor_hash": "00"})))  # fmt: skip
    assert evaluate(folder, "good.npz", "foreign.npz", *FID) == 2
