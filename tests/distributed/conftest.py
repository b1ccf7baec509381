"""Real processes with virtual devices, joined on localhost: the code path of a pod."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run_processes(script: str, *args: str, processes: int, devices: int, timeout: float = 120):
    """Returns what every process printed as its last line, parsed as JSON.

    `script` lies in this folder; each process has `devices` virtual CPU devices. All are stopped,
    and their errors shown, as soon as one fails.
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
        while any(process.poll() is None for process in running):
            failed = [i for i, process in enumerate(running) if process.poll()]
            if failed or time.monotonic() > end:
                break
            time.sleep(0.05)
        for i, process in enumerate(running):
            if process.poll():
                raise AssertionError(f"process {i} failed: {_read(errors[i])[-4000:]}")
        late = [i for i, process in enumerate(running) if process.poll() is None]
        assert not late, f"processes {late} did not end within {timeout} s"
        return [json.loads(_read(out).strip().splitlines()[-1]) for out in outputs]


def _read(file) -> str:
    file.seek(0)
    return file.read()


@pytest.fixture
def processes():
    """The function `run_processes`."""
    return run_processes
