"""A bucket that fails half its requests, and a storage that is away for a while."""

import errno
import logging
import random

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from genjax.checkpoint import Checkpoints, Retention, SaveFailed, Workdir, retry
from genjax.core.types import TrainState


class FlakyFile(MemoryFile):
    def commit(self):
        Flaky.request("commit")
        super().commit()


class Flaky(MemoryFileSystem):
    """An object store in memory in which each request fails with probability `share`."""

    protocol = "flaky"
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    share, down, failed, asked = 0.0, False, 0, 0
    chance = random.Random(0)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("flaky://").strip("/")

    @classmethod
    def request(cls, name):
        cls.asked += 1
        if cls.down or cls.chance.random() < cls.share:
            cls.failed += 1
            raise OSError(f"503 at {name}")

    def _open(self, path, mode="rb", **kwargs):
        self.request("open")
        out = super()._open(path, mode, **kwargs)
        if mode != "rb":
            out.__class__ = FlakyFile
        return out

    def ls(self, path, detail=True, **kwargs):
        self.request("ls")
        return super().ls(path, detail, **kwargs)

    def info(self, path, **kwargs):
        self.request("info")
        return super().info(path, **kwargs)

    def rm_file(self, path):
        self.request("rm")
        super()._rm(path)

    def cp_file(self, path1, path2, **kwargs):
        self.request("cp")
        super().cp_file(path1, path2, **kwargs)


@pytest.fixture
def waits(monkeypatch):
    """The waits between tries, which take no time here."""
    out = []
    monkeypatch.setattr(retry.time, "sleep", out.append)
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)
    return out


@pytest.fixture
def bucket(waits):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.store.clear()
    Flaky.share, Flaky.down, Flaky.failed, Flaky.asked = 0.5, False, 0, 0
    Flaky.chance = random.Random(0)
    return Flaky


def state(step):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = {"net": {"w": jax.device_put(np.arange(40.0) + step, where)}}
    return TrainState(jax.device_put(jnp.int32(step), where), params, {}, {}, {})


def restored():
    found = Checkpoints("flaky://b/run").restore(state(0))
    assert found is not None
    return found


def test_a_bucket_that_fails_half_its_requests(bucket):
    workdir = Workdir("flaky://b/run")
    workdir.create()
    store = Checkpoints(workdir, Retention(last=2))
    for step in (1, 2, 3):
        store.save(state(step), step=step, images=step)
    store.wait()
    for name in ("3", "2"):  # none is taken for damaged, incomplete or absent
        assert Checkpoints("flaky://b/run").steps() == [2, 3], name
    found, meta = restored()
    assert meta["step"] == 3
    np.testing.assert_array_equal(found.params["net"]["w"], state(3).params["net"]["w"])
    store.workdir.move("checkpoints/3", "checkpoints/3.damaged")
    assert restored()[1]["step"] == 2
    assert store.workdir.listing("checkpoints") == ["2", "3.damaged"]
    assert bucket.asked > 200 and 0.4 < bucket.failed / bucket.asked < 0.6


def test_lines_are_appended_once(bucket, tmp_path, monkeypatch):
    workdir = Workdir(str(tmp_path))
    lines = [f"line {i}\n".encode() for i in range(20)]
    fs_open, chance = workdir.fs.open, random.Random(1)

    def cut_short(path, mode="rb", **kwargs):
        f = fs_open(path, mode, **kwargs)
        if "a" in mode and chance.random() < 0.5:
            f.write(b"line")  # pyright: ignore[reportArgumentType]
            f.close()
            raise OSError(errno.EIO, "gone while writing")
        return f

    monkeypatch.setattr(workdir.fs, "open", cut_short)
    for line in lines:
        workdir.append("log", line)
    assert workdir.read("log") == b"".join(lines)


def test_storage_that_comes_back_is_waited_for(bucket, waits, monkeypatch, caplog):
    bucket.share, bucket.down = 0.0, True
    workdir = Workdir("flaky://b/run")

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 9:
            bucket.down = False

    monkeypatch.setattr(retry.time, "sleep", sleep)
    with caplog.at_level(logging.WARNING, "genjax"):
        workdir.write("a", b"x")
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert workdir.read("a") == b"x"
    assert len(caplog.records) == 5 and "/b/run/a: 503 at open; trying again" in caplog.text


def test_storage_that_stays_away_ends_the_save_and_changes_nothing(bucket, waits):
    bucket.share = 0.0
    store = Checkpoints("flaky://b/run")
    store.save(state(1), step=1, images=1)
    store.wait()
    bucket.down = True
    with pytest.raises(SaveFailed, match=r"checkpoints/2 could not be written \(503 at"):
        store.save(state(2), step=2, images=2)
    with pytest.raises(OSError, match="503"):  # neither "nothing there" nor "damaged"
        restored()
    bucket.down = False
    assert restored()[1]["step"] == 1
    assert retry.PATIENCE <= sum(waits[:18]) < retry.PATIENCE + 10


class Server(Exception):
    def __init__(self, code):
        self.code = code


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError("503"), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(errno.ESTALE, "stale"), True),
        (Server(503), True),
        (Server("429"), True),
        (Server(404), False),
        (FileNotFoundError(), False),
        (PermissionError(errno.EACCES, "no"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (ValueError("x"), False),
    ],
)
def test_what_is_tried_again(waits, error, passes):
    tries = []

    def fail_twice():
        tries.append(1)
        if len(tries) < 3:
            raise error
        return "done"

    assert retry.passing(error) is passes
    if passes:
        assert retry.retried("x", fail_twice) == "done" and len(waits) == 2
    else:
        with pytest.raises(type(error)):
            retry.retried("x", fail_twice)
        assert not waits
