"""The loop on two processes of four devices: the same losses, one stop for all, joint fallback."""

import pytest

from genjax.training.writers import read_metrics

pytestmark = pytest.mark.slow


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_metrics(str(workdir)) if "loss" in line}


def test_two_processes_train_as_one_and_fall_back_together(processes, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,) = processes("worker_train.py", str(one), "12", processes=1, devices=8)
    first = processes("worker_train.py", str(two), "10", processes=2, devices=4)
    assert [f["step"] for f in first] == [10, 10]
    again = processes("worker_train.py", str(two), "12", "damaged=10", processes=2, devices=4)
    assert (two / "checkpoints" / "10.damaged").exists()
    # process 0 could read step 10, but all must continue from the same step
    for each in again:
        assert (each["code"], each["step"]) == (0, 12)
        assert each["total"] == pytest.approx(alone["total"], rel=1e-5)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


def test_sigterm_on_one_process_stops_all_after_the_same_step(processes, tmp_path):
    found = processes("worker_train.py", str(tmp_path), "200", "kill=4", processes=2, devices=4)
    assert [f["code"] for f in found] == [143, 143]
    steps = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert 4 <= max(steps) < 60
    # hooks do not run in the step that stops, which is the one that was saved
    assert {f["step"] for f in found} == {max(steps) - 1}
