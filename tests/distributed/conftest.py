"""Real processes with virtual devices, joined on localhost: the code path of a pod."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that ended it) and what it printed."""

    code: int
    out: str
    err: str


def end_processes(
    script: str,
    *args: str,
    processes: int,
    devices: int,
    timeout: float = 120,
    grace: float = 0,
) -> list[Ended]:
    """Returns how every process ended.

    `script` lies in this folder; each process has `devices` virtual CPU devices. As soon as one
    fails the others have `grace` seconds; then all are killed, as a launcher does.
    """
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XLA_", "GENJAX_"))
    } | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "GENJAX_COORDINATOR": address,
        "GENJAX_NUM_PROCESSES": str(processes),
    }
    command = [sys.executable, str(pathlib.Path(__file__).parent / script), *args]
    running, outputs, errors = [], [], []
    with contextlib.ExitStack() as stack:
        for i in range(processes):
            outputs.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            errors.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            one = env | {"GENJAX_PROCESS_ID": str(i)}
            running.append(subprocess.Popen(command, env=one, stdout=outputs[i], stderr=errors[i]))
            stack.callback(running[i].kill)
        end = time.monotonic() + timeout
        while any(p.poll() is None for p in running) and time.monotonic() < end:
            if any(p.poll() for p in running):
                end = min(end, time.monotonic() + grace)
            time.sleep(0.05)
        for process in running:
            process.kill()
        codes = [process.wait() for process in running]
        return [Ended(c, _read(o), _read(e)) for c, o, e in zip(codes, outputs, errors)]


def run_processes(script: str, *args: str, processes: int, devices: int, timeout: float = 120):
    """Returns what every process printed as its last line, parsed as JSON.

    All are stopped, and the errors of one shown, as soon as one fails; see `end_processes`.
    """
    ended = end_processes(script, *args, processes=processes, devices=devices, timeout=timeout)
    failed = [(i, e) for i, e in enumerate(ended) if e.code not in (0, -signal.SIGKILL)]
    for i, each in failed:
        raise AssertionError(f"process {i} failed: {each.err[-4000:]}")
    late = [i for i, each in enumerate(ended) if each.code]
    assert not late, f"processes {late} did not end within {timeout} s"
    return [json.loads(each.out.strip().splitlines()[-1]) for each in ended]


def _read(file) -> str:
    file.seek(0)
    return file.read()


@pytest.fixture
def processes():
    """The function `run_processes`."""
    return run_processes


@pytest.fixture
def ending():
    """The function `end_processes`."""
    return end_processes
