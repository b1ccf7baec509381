"""The Fashion-MNIST run reaches its level, as a classifier of the real images sees it."""

import json

import pytest

from genjax.core.errors import UserError
from genjax.data import open_source
from tests.end_to_end.commands import genjax

HOURS = 3 * 3600


@pytest.mark.slow  # an hour and more on two cores
def test_fashion_mnist_is_learned(tmp_path):
    try:
        open_source("fashion_mnist:test")
    except UserError as error:
        pytest.skip(str(error))
    run, judge, report = tmp_path / "run", tmp_path / "judge", tmp_path / "eval.json"

    def trained(config, workdir):
        done = genjax("train", "--config", config, "--workdir", workdir, timeout=HOURS)
        assert done.returncode == 0, done.stderr
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    accuracy = [
        value
        for line in trained("configs/classifier/fashion_mnist.py", judge)
        for name, value in line.items()
        if name.startswith("heldout/") and name.endswith("/accuracy")
    ]
    assert accuracy and accuracy[-1] >= 0.9  # of the real test set, or the judge knows no clothes
    seconds = trained("configs/fashion_mnist/dit.py", run)[-1]["seconds"]
    print(f"trained in {seconds / 60:.1f} minutes")
    done = genjax(
        *("eval", "--workdir", run, "--reference", "fashion_mnist", "--num", 1000),
        *("--metrics", "fid,label_agreement", "--extractor", f"classifier:{judge}"),
        *("--json", report),
        timeout=HOURS,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    metrics = json.loads(report.read_text())["metrics"]
    assert metrics["label_agreement"]["value"] >= 0.85
    fid = metrics["fid"]
    assert fid["value"] < 0.2 * fid["context"]["uniform noise"]["value"]
