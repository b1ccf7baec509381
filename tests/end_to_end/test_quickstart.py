"""The quickstart's training run reaches its level, as a judge that is not genjax's own sees it."""

import numpy as np
import pytest

from tests.end_to_end.commands import genjax
from tests.end_to_end.svm import judge


@pytest.mark.slow  # five minutes on two cores
def test_the_quickstart_learns_the_digits(tmp_path):
    run, out = tmp_path / "run", tmp_path / "samples.npz"
    done = genjax("train", "--config", "configs/quickstart.py", "--workdir", run, timeout=3600)
    assert done.returncode == 0, done.stderr
    done = genjax("sample", "--workdir", run, "--num", 1000, "--out", out)
    assert done.returncode == 0, done.stderr
    with np.load(out, allow_pickle=False) as data:
        images, labels = data["arr_0"], data["labels"]
    assert images.shape == (1000, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 100))
    found = judge(images, labels)
    print(found)
    assert found["svm"] >= 0.98  # else the judge knows no digits
    assert found["agreement"] >= 0.95
    assert 0.85 <= found["spread"] <= 1.15
    assert found["nearest"] >= 0.7
