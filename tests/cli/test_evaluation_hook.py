"""Metrics in training: raw and averaged weights, at their cadence, with their protocols."""

import json

import jax.numpy as jnp
import pytest

from genjax.cli import evaluation_hook
from genjax.cli.main import main
from tests.end_to_end.commands import ROOT, TINY, flags

CONFIG = str(ROOT / "configs" / "quickstart.py")
BASE = {
    "train.images": 8 * 6,
    "checkpoint.every_images": 0,
    "evaluation.every_images": 8 * 3,
    "evaluation.metrics": "('fid','spread')",
    "evaluation.extractor": "pixels",
    "evaluation.reference": "digits",
    "evaluation.num": 24,
    "evaluation.batch": 16,
}


class Pixels:
    name, hash, dim, protocol = "pixels", "0123456789abcdef", 4, "x8/255"

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        x = jnp.asarray(images, jnp.float32).reshape(len(images), 4, 16) / 255
        return {"features": x.mean(-1)}


def train(workdir, **changes):
    chosen = flags(TINY | BASE | {f"evaluation.{k}": v for k, v in changes.items()})
    return main(["train", "--config", CONFIG, "--workdir", str(workdir), *chosen])


def test_metrics_of_raw_and_averaged_weights(tmp_path, monkeypatch):
    network = Pixels()
    monkeypatch.setattr(evaluation_hook, "open_extractor", lambda spec, tools: network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train(tmp_path / "run") == 0
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    measured = [line for line in lines if "eval/raw/fid" in line]
    assert [line["images"] for line in measured] == [24, 48]
    for line in measured:
        names = {"eval/raw/fid", "eval/main/fid", "eval/raw/spread", "eval/main/spread"}
        assert names == {k for k in line if k.startswith("eval/")}
        assert all(line[name] > 0 for name in names)
    assert measured[1]["eval/raw/fid"] != measured[1]["eval/main/fid"]
    # The reference's 1437 images in batches of 16, once; then 4 times 24 samples in two batches.
    assert network.images == 90 * 16 + 4 * 32
    files = sorted(p.name for p in (tmp_path / "run" / "evaluations").iterdir())
    assert files == [f"{n:012d}_{w}.json" for n in (24, 48) for w in ("main", "raw")]
    entry = json.loads((tmp_path / "run" / "evaluations" / files[2]).read_text())["metrics"]["fid"]
    assert entry["value"] == measured[1]["eval/main/fid"] and entry["n"] == 24
    for clause in ("labels balanced", "NFE 3", "weights main", "step 6", "x8/255", "N = 24"):
        assert clause in entry["protocol"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reference": ""}, "config.evaluation.reference: name the data"),
        ({"reference": "nothing"}, "'nothing' is no source"),
        (
            {"extractor": "classifier:none", "metrics": "('fid',)"},
            "none: no config.json there",
        ),
        ({"metrics": "('fidd',)"}, "config.evaluation.metrics"),
        ({"metrics": "('psnr',)"}, "compares image i with reference image i"),
        ({"labels": "some"}, "config.evaluation.labels"),
        ({"num": 1}, "num is at least 2"),
    ],
)
def test_what_is_wrong_is_found_before_training(tmp_path, capsys, changes, message):
    assert train(tmp_path / "run", **{"metrics": "('spread',)", **changes}) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and not (tmp_path / "run").exists()
