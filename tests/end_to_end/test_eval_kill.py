"""`genjax eval` killed with SIGKILL and called again: the JSON of one that was left alone."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from genjax.evaluation.store import Work
from tests.end_to_end.commands import ROOT, environment, flags, genjax, train_args

pytestmark = pytest.mark.slow
NUM = 600


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert genjax(*train_args(folder / "run", train__images=8 * 12)).returncode == 0
    chosen = flags({"train.images": 640, "log.tensorboard": False})
    config = ["--config", "configs/classifier/digits.py", "--workdir", str(folder / "classifier")]
    done = genjax("train", *config, *chosen)
    assert done.returncode == 0, done.stderr
    return folder


def arguments(runs, name):
    return [
        *("eval", "--workdir", str(runs / "run"), "--reference", "digits", "--num", str(NUM)),
        *("--metrics", "fid,precision,label_agreement,spread", "--labels", "uniform"),
        *("--extractor", f"classifier:{runs / 'classifier'}", "--batch", "32", "--save-every", "0"),
        *("--progress", str(runs / name), "--cache", str(runs / f"{name}-cache")),
        *("--json", str(runs / f"{name}.json")),
    ]  # fmt: skip


def killed(runs, name, reached):
    """Starts the command and kills it as soon as `reached(folder)` says so."""
    command = [sys.executable, "-m", "genjax.cli.main", *arguments(runs, name)]
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(
            command, env=environment(), cwd=ROOT, stdout=nowhere, stderr=nowhere
        )
        end = time.monotonic() + 900
        while process.poll() is None and not reached(runs / name) and time.monotonic() < end:
            time.sleep(0.002)
        process.kill()
        process.wait()
    assert not (runs / f"{name}.json").exists(), "it was done before it could be killed"


def done(folder, kind):
    """Returns how many images a work of that kind has finished."""
    return [Work(path, 0).done for path in folder.glob(f"{kind}-*") if path.is_dir()]


def test_killed_and_called_again(runs):
    assert genjax(*arguments(runs, "whole")).returncode == 0
    killed(runs, "cut", lambda folder: max(done(folder, "samples"), default=0) >= 100)
    drawn = max(done(runs / "cut", "samples"))
    assert 100 <= drawn < NUM
    killed(runs, "cut", lambda folder: max(done(folder, "features"), default=0) >= 100)
    assert done(runs / "cut", "samples") == [NUM]
    last = genjax(*arguments(runs, "cut"))
    assert last.returncode == 0, last.stderr
    assert (runs / "cut.json").read_bytes() == (runs / "whole.json").read_bytes()
    (one,), (two,) = ((runs / n).glob("samples-*") for n in ("whole", "cut"))
    assert one.name == two.name  # one and the same piece of work
    a, b = (Work(path, 0).image_set("x", "").read(np.arange(NUM)) for path in (one, two))
    assert np.array_equal(a, b)
