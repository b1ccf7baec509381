"""A disk that fills up: exit code 1 and one line; the last checkpoint is whole and goes on."""

import functools
import os
import resource
import subprocess

import pytest

from genjax.checkpoint import Checkpoints
from genjax.training.writers import read_metrics
from tests.end_to_end.commands import genjax, train_args

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB, where the user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def train(workdir, steps, **options):
    args = train_args(workdir, train__images=8 * steps, log__tensorboard=True)
    return genjax(*args, **options)


def fill(disk, leave):
    """Fills the disk but for `leave` bytes; returns the file to remove."""
    free = os.statvfs(disk)
    with open(disk / "other", "wb") as f:
        f.write(b"x" * (free.f_bavail * free.f_frsize - leave))
    return disk / "other"


def assert_full(done, workdir, step):
    """Fails unless the command ended as on a full disk, with the checkpoint of `step` left."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("genjax: ")
    assert sum(line.startswith("genjax: ") for line in lines) == 1
    assert Checkpoints(str(workdir)).latest() == step
    assert not [p for p in (workdir / "checkpoints").iterdir() if not p.name.isdigit()]


def assert_goes_on(workdir, step):
    done = train(workdir, step + 3)
    assert done.returncode == 0, done.stderr
    assert f"resumed from step {step} " in done.stderr
    assert [line["step"] for line in read_metrics(str(workdir))] == list(range(1, step + 4))


@pytest.mark.parametrize("leave", [0, 64 * 1024])  # room for nothing; for metrics alone
def test_a_full_disk(small_disk, leave):
    workdir = small_disk / "run"
    assert train(workdir, 6).returncode == 0
    other = fill(small_disk, leave)
    assert_full(train(workdir, 12), workdir, 6)
    other.unlink()
    assert_goes_on(workdir, 6)


def test_a_limit_on_the_size_of_files(tmp_path):
    workdir = tmp_path / "run"
    assert train(workdir, 6).returncode == 0
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2**16, 2**16))
    assert_full(train(workdir, 12, preexec_fn=limit), workdir, 6)
    assert_goes_on(workdir, 6)
