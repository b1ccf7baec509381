"""Real processes to which bad things happen: a restart ends bit for bit like an undisturbed run."""

import dataclasses
import json
import re
import socket

import numpy as np
import pytest

from genjax.checkpoint import Checkpoints
from genjax.training.writers import read_metrics
from tests.end_to_end.test_kill import arrays

pytestmark = pytest.mark.slow
STEPS = 18
KINDS = {"step", "params", "mutable", "opt", "ema"}
HOST = re.escape(socket.gethostname())


@dataclasses.dataclass(frozen=True)
class Row:
    """`fault` strikes `process` of `processes` in `step`; checkpoints are those of steps 5, 10 ...

    `codes`: exit codes by process, None: any but 0; `said`: what somebody prints; `saved`: the
    checkpoint that is left; `heartbeat`: that of the run, in seconds.
    """

    fault: str
    processes: int
    process: int
    codes: tuple[int | None, ...]
    said: str = ""
    saved: int | None = 10
    heartbeat: float = 60.0
    step: int = 13


ROWS = {
    "SIGTERM to one of two": Row("term", 2, 1, (143, 143), "stopped by SIGTERM", None, step=3),
    "kill -9 of one of two": Row("kill", 2, 1, (None, -9)),
    "kill -9 of the coordinator": Row("kill", 2, 0, (-9, None)),
    "kill -9 of one of four": Row("kill", 4, 2, (None, None, -9, None)),
    "one of two is frozen": Row(
        "freeze", 2, 1, (1, -9), rf"process 1 \(host {HOST}\) hangs or is dead", heartbeat=15
    ),
    "the coordinator is frozen": Row(
        "freeze", 2, 0, (-9, 1), r"process 0 \(host localhost\) hangs or is dead", heartbeat=15
    ),
    "one of two waits for data for ever": Row(
        "sleep",
        2,
        1,
        (None, None),
        rf"process 1 \(host {HOST}\) hangs: 15 s waiting for data, step 13;",
        heartbeat=15,
    ),
    "NaN on one of two": Row(
        "nan", 2, 1, (3, 3), r'step 13 \(image 208\), player model: .* "batch/main/x"'
    ),
    "the disk of one of two is full": Row(
        "full",
        2,
        1,
        (1, None),
        r"process 1 \(host .*\) failed: .*checkpoints/15 could not be written",
    ),
}


def assert_equal(a, b):
    assert a.keys() == b.keys() and {k.split("/")[0] for k in a} == KINDS
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def run(ending, workdir, steps, processes, **options):
    found = ending(
        "worker_survive.py",
        str(workdir),
        str(steps),
        json.dumps(options),
        processes=processes,
        devices=4 // processes,
        timeout=900,
        grace=15,
    )
    return found, "\n".join(f"{i}: {e.code}\n{e.err[-3000:]}" for i, e in enumerate(found))


def finish(ending, workdir, processes, **options):
    """Starts the run again; it must end well."""
    found, text = run(ending, workdir, STEPS, processes, **options)
    assert [e.code for e in found] == [0] * processes, text
    lines = [x for x in read_metrics(str(workdir)) if "loss" in x]
    assert [x["step"] for x in lines] == list(range(1, STEPS + 1))
    assert 0 < lines[-1]["goodput"] < 1
    return text


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """The same few programs are compiled by dozens of processes: a cache makes that bearable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Processes -> the arrays that an undisturbed run of so many ends with, made when asked for."""
    known = {}

    def find(ending, processes):
        if processes not in known:
            workdir = tmp_path_factory.mktemp(f"undisturbed{processes}")
            finish(ending, workdir, processes)
            known[processes] = arrays(workdir)
        return known[processes]

    return find


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_what_strikes_a_run_leaves_no_trace(row, undisturbed, ending, tmp_path):
    expected = undisturbed(ending, row.processes)
    given = {k: getattr(row, k) for k in ("fault", "process", "step", "saved", "heartbeat")}
    found, text = run(ending, tmp_path, STEPS, row.processes, **given)
    for each, code in zip(found, row.codes, strict=True):
        assert each.code == code if code is not None else each.code != 0, text
    assert re.search(row.said, text), text
    latest = Checkpoints(str(tmp_path)).latest() or 0
    assert latest == row.saved if row.saved else row.step <= latest < STEPS
    assert f"resumed from step {latest} " in finish(ending, tmp_path, row.processes)
    assert_equal(arrays(tmp_path), expected)


def test_the_newest_checkpoint_is_cut_short(undisturbed, ending, tmp_path):
    assert all(e.code == 0 for e in run(ending, tmp_path, 15, 2)[0])
    for file in (tmp_path / "checkpoints" / "15" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:16])
    text = finish(ending, tmp_path, 2)
    assert "checkpoint of step 15 is damaged" in text and "resumed from step 10 " in text
    assert_equal(arrays(tmp_path), undisturbed(ending, 2))


def test_four_processes_are_killed_and_two_on_another_mesh_go_on(ending, tmp_path):
    """Bit for bit like four that stop after the same checkpoint as planned, and two that go on."""
    killed, planned = tmp_path / "killed", tmp_path / "planned"
    run(ending, killed, STEPS, 4, fault="kill", process=3, step=13, saved=10)
    assert all(e.code == 0 for e in run(ending, planned, 10, 4)[0])
    for workdir in (killed, planned):
        text = finish(ending, workdir, 2, fsdp=4)
        assert "resumed from step 10 " in text and "'data': 1, 'fsdp': 4" in text
    assert_equal(arrays(killed), arrays(planned))
