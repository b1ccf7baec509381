"""The real command killed in the middle: restarted by the script, it ends as if undisturbed."""

import subprocess
import sys

import pytest

from genjax.training.writers import read_metrics
from tests.end_to_end.commands import genjax, started, train_args

pytestmark = pytest.mark.slow


STEPS = 800
LENGTH = {"train__images": 8 * STEPS, "checkpoint__every_images": 8 * 40}


def steps(workdir):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_metrics(str(workdir))]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    assert genjax(*train_args(tmp_path / "calm", **LENGTH)).returncode == 0
    run = started(
        *("bash", "launch/with_restarts.sh", sys.executable, "-m", "genjax.cli.main"),
        *train_args(tmp_path / "killed", **LENGTH),
        until="step 200 ",
        GENJAX_BACKOFF="1",
    )
    children = f"/proc/{run.pid}/task/{run.pid}/children"
    with open(children) as file:
        subprocess.run(["kill", "-9", *file.read().split()], check=True)
    _, said = run.communicate(timeout=400)
    assert run.returncode == 0, said
    assert "exit code 137; restart 1 of 10 in 1 s" in said and "resumed from step" in said
    assert steps(tmp_path / "killed") == steps(tmp_path / "calm")
    assert len(steps(tmp_path / "calm")) == STEPS
