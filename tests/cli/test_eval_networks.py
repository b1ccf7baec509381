"""`genjax eval` with a public feature network: from the weight file to the report."""

import json

import numpy as np
import pytest

from genjax.cli.main import main
from genjax.weights.io import write_safetensors
from tests.weights.recipe import golden, weights


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    y = np.clip(x + rng.normal(0, 30, x.shape), 0, 255).astype(np.uint8)
    np.savez(folder / "x.npz", arr_0=x)
    np.savez(folder / "y.npz", arr_0=y)
    return folder


def run(folder, *arguments):
    out = folder / "report.json"
    given = ["--samples", str(folder / "x.npz"), "--reference", str(folder / "y.npz")]
    code = main(["eval", *given, *arguments, "--cache", "none", "--json", str(out)])
    return code, json.loads(out.read_text()) if code == 0 else None


def test_pairs_need_no_network(samples):
    code, report = run(samples, "--metrics", "psnr,ssim")
    assert code == 0 and 15 < report["metrics"]["psnr"]["value"] < 30
    assert 0 < report["metrics"]["ssim"]["value"] < 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("fid", "--extractor", "inception"), ("pt_inception-2015-12-05-6726825d.pth", "github")),
        (("fd_dinov2",), ("dinov2_vitl14_pretrain.pth", "fbaipublicfiles")),
        (("lpips",), ("alexnet-owt-7be5be79.pth", "download.pytorch.org")),
        (("cmmd",), ("clip-vit-large-patch14-336.bin", "huggingface.co")),
        (("fid", "--extractor", "inception", "--weights", "none.pth"), ("none.pth", "not exist")),
        (("fid", "--weights", "none.pth"), ("of no network", "--extractor")),
        (("fid", "--extractor", "inception:mine"), ("'mine' is no protocol",)),
    ],
)
def test_missing_weights_are_one_line(samples, capsys, arguments, words):
    folder = str(samples / "weights")
    assert main([
        "eval", "--samples", str(samples / "x.npz"), "--reference", str(samples / "y.npz"),
        "--weights-folder", folder, "--metrics", *arguments,
    ]) == 2  # fmt: skip
    error = capsys.readouterr().err.strip()
    assert error.startswith("genjax: error:") and "\n" not in error
    for word in words:
        assert word in error


@pytest.mark.slow
def test_fid_of_the_inception_network(samples):
    meta, _ = golden("fid_inception")
    write_safetensors(samples / "inception.safetensors", weights(meta["shapes"]))
    code, report = run(
        samples,
        *("--metrics", "fid,sfid,kid", "--extractor", "inception:tf-legacy"),
        *("--weights", str(samples / "inception.safetensors"), "--batch", "6"),
    )
    assert code == 0
    fid = report["metrics"]["fid"]
    assert fid["name"].startswith("fid[inception-tf-legacy-") and fid["value"] > 0
    assert "TF1 bilinear" in fid["protocol"] and "float32" in fid["protocol"]
    assert "TOO FEW SAMPLES: 6 for 2048" in fid["warnings"][0]
    assert report["metrics"]["sfid"]["details"]["dimensions"] == 2023
    assert "subsets of 6" in report["metrics"]["kid"]["warnings"][0]
    # The Inception Score of six images in ten splits is none, and says so.
    code, _ = run(
        samples,
        *("--metrics", "is", "--extractor", "inception", "--batch", "6"),
        *("--weights", str(samples / "inception.safetensors")),
    )
    assert code == 2
