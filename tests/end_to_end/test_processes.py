"""The real commands on other devices and processes: equal losses, equal samples, safe stops."""

import re
import shutil
import signal
import sys

import numpy as np
import pytest

from genjax.training.writers import read_metrics
from tests.end_to_end.commands import genjax, genjax_processes, started, train_args

pytestmark = pytest.mark.slow

HALF, STEPS = 8, 16
MESH = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2, "rules__replicate_below": 0}


def length(steps):
    return {"train__images": 8 * steps, "checkpoint__every_images": 8 * 4}


def losses(workdir):
    lines = read_metrics(str(workdir))
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return np.array([[line["loss"], line["grad_norm"]] for line in lines])


def train(workdir, *, devices=1, **overrides):
    done = genjax(*train_args(workdir, **overrides), devices=devices)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(workdir, **length(STEPS))
    return workdir


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Half of that run on eight devices, every parameter split."""
    workdir = tmp_path_factory.mktemp("eight") / "run"
    done = train(workdir, devices=8, **MESH, **length(HALF))
    assert "'data': 2, 'fsdp': 2, 'tensor': 2" in done.stderr
    return workdir


def assert_close(found, wanted):
    # The same sums in another order, through sixteen steps of Adam.
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_two_processes_of_four_devices_train_as_one_device(alone, tmp_path):
    workdir = tmp_path / "run"
    done = genjax_processes(2, 4, *train_args(workdir, **MESH, **length(STEPS)), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 x cpu" in done.stderr and f"done: step {STEPS}" in done.stderr
    assert len(losses(workdir)) == STEPS
    assert_close(losses(workdir), losses(alone))


@pytest.mark.parametrize(
    ("devices", "mesh"), [(8, MESH), (2, {**MESH, "mesh__data": 1, "mesh__tensor": 1}), (1, {})]
)
def test_a_run_saved_on_eight_devices_goes_on_elsewhere(eight, alone, tmp_path, devices, mesh):
    shutil.copytree(eight, tmp_path / "run")
    done = train(tmp_path / "run", devices=devices, **mesh, **length(STEPS))
    assert f"resumed from step {HALF}" in done.stderr
    assert len(losses(tmp_path / "run")) == STEPS
    assert_close(losses(tmp_path / "run"), losses(alone))


def drawn(path):
    with np.load(path, allow_pickle=False) as data:
        np.testing.assert_array_equal(data["labels"], np.arange(20) % 10)
        np.testing.assert_array_equal(data["arr_1"], data["labels"])
        return data["arr_0"]


def test_samples_do_not_depend_on_devices_processes_and_batch(alone, tmp_path):
    def sample(name, batch):
        out = tmp_path / f"{name}.npz"
        return out, ["sample", "--workdir", alone, "--num", 20, "--out", out, "--batch", batch]

    out, args = sample("one", 20)
    assert genjax(*args).returncode == 0
    one = drawn(out)
    assert one.shape == (20, 8, 8, 1) and one.dtype == np.uint8
    assert len({image.tobytes() for image in one}) == 20
    for name, batch in (("eight", 16), ("two processes", 8)):
        out, args = sample(name, batch)
        if name == "eight":
            done = genjax(*args, devices=8)
        else:
            done = genjax_processes(2, 4, *args, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        away = np.abs(drawn(out).astype(int) - one)
        assert away.max() <= 1 and np.mean(away == 0) >= 0.999


def test_sigterm_saves_and_the_next_call_resumes(alone, tmp_path):
    workdir = tmp_path / "run"
    process = started(
        *(sys.executable, "-m", "genjax.cli.main"),
        *train_args(workdir, **length(100_000)),
        until="step 5 ",
    )
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    found = re.search(r"stopped by SIGTERM; saved step ([\d,]+)", said)
    assert found, said
    step = int(found[1].replace(",", ""))
    assert step >= 5 and (workdir / "checkpoints" / str(step)).exists()
    done = train(workdir, **length(step + 3))
    assert f"resumed from step {found[1]} " in done.stderr
    assert len(losses(workdir)) == step + 3
    both = min(STEPS, step + 3)
    np.testing.assert_array_equal(losses(workdir)[:both], losses(alone)[:both])
