"""A run killed ten times ends bit for bit like an undisturbed one, next batch included."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from genjax.checkpoint import Checkpoints
from genjax.checkpoint.checkpoints import _wanted
from tests.end_to_end.commands import ROOT, environment, genjax, train_args

STEPS = 400


def arrays(workdir) -> dict[str, np.ndarray]:
    """Returns every array of the newest checkpoint by path."""
    store = Checkpoints(str(workdir))._states
    step = store.steps()[-1]
    leaves = store.meta(step)["leaves"]
    found = store.read(step, leaves, _wanted(leaves, "", None))
    return {k: np.asarray(v) for k, v in found.items()}


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert {k.split("/")[0] for k in a} == {"step", "params", "opt", "ema"}
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.slow
def test_killed_ten_times_equals_uninterrupted(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    length = {"train__images": 8 * STEPS, "checkpoint__every_images": 8 * 20}
    done = genjax(*train_args(whole, **length))
    assert done.returncode == 0, done.stderr
    chance = random.Random(0)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-m", "genjax.cli.main", *train_args(broken, **length)],
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Let it log a random number of lines (a line a step), and strike between two of them.
        for _ in range(chance.randint(1, STEPS // 8)):
            if not process.stdout.readline():
                break
        time.sleep(chance.random() * 0.05)
        if kills < 10 and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
            process.communicate()
            continue
        _, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            break
    assert kills == 10, f"only {kills} kills hit a running process"
    assert process.returncode == 0
    assert_equal(arrays(whole), arrays(broken))

    # One more step each: equal only if the next batch is the same too.
    for workdir in (whole, broken):
        more = genjax(*train_args(workdir, **length | {"train__images": 8 * (STEPS + 1)}))
        assert more.returncode == 0, more.stderr
    assert int(arrays(whole)["step"]) == STEPS + 1
    assert_equal(arrays(whole), arrays(broken))
