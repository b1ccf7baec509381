"""Train, sample by the adaptive ODE and measure bits/dim: three commands."""

import json

import numpy as np
import pytest

from tests.end_to_end.commands import genjax, train_args


@pytest.mark.slow
def test_bits_of_a_trained_model(tmp_path):
    work, report, out = tmp_path / "work", tmp_path / "report.json", tmp_path / "s.npz"
    done = genjax(*train_args(work))
    assert done.returncode == 0, done.stderr
    measure = ["eval", "--workdir", work, "--reference", "digits:test", "--metrics", "bpd"]
    few = ["--images", "24", "--batch", "16", "--tolerance", "1e-2", "--eps", "1e-2"]
    done = genjax(*measure, *few, "--json", report, devices=2)
    assert done.returncode == 0, done.stderr
    entry = json.loads(report.read_text())["metrics"]["bpd"]
    # Grey levels at random need log2(17) = 4.09 bits; a net of 40 steps knows a little.
    assert 1 < entry["value"] < 8 and entry["n"] == 24
    assert "step 40" in entry["protocol"] and "labels of the data" in entry["protocol"]
    done = genjax("sample", "--workdir", work, "--num", 3, "--out", out, "--solver", "rk45")
    assert done.returncode == 0 and "evaluations each" in done.stdout, done.stderr
    assert np.load(out)["arr_0"].shape == (3, 8, 8, 1)
