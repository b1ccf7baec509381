"""How a sweep's runs are started: processes of this machine, or lines for a cluster."""

import contextlib
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from genjax.cli.sweeping import Job, Sweep
from genjax.core.errors import UserError

STOPPED = 143


def emit(path: str, jobs: Sequence[Job]) -> None:
    """Writes a line a run: a shell script (.sh), or JSON lines (.jsonl) with N, D and C.

    Raises `UserError` for another ending, or a file that cannot be written.
    """
    if path.endswith(".jsonl"):
        lines = [
            json.dumps({
                "name": job.name,
                "command": ["genjax", *job.arguments],
                "params": job.cell.size.params,
                "images": job.cell.images,
                "flops": job.cell.flops,
            })
            for job in jobs
        ]  # fmt: skip
    elif path.endswith(".sh"):
        lines = ["#!/bin/sh", "# Each line is a run of its own; a line that is run again resumes."]
        lines += [job.shell for job in jobs]
    else:
        raise UserError(f"--emit: {path} must end in .sh or .jsonl")
    try:
        Path(path).write_text("".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(f"--emit: {path} cannot be written ({error.strerror})") from error


def run_all(sweep: Sweep, jobs: Sequence[Job], at_once: int, say: Callable[[str], None]) -> bool:
    """Runs the jobs in their order, `at_once` processes at a time; says whether all ended well.

    A diverged run is remembered and counts as ended. Raises `UserError` for a run whose input is
    wrong (no further one is started), and `SystemExit(143)` after SIGTERM, which the runs get too.
    """
    logs = Path(sweep.workdir.at("logs") if sweep.workdir.local else tempfile.mkdtemp())
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(jobs), {}
    total, spent, begun = sum(j.cell.flops for j in jobs), 0.0, time.monotonic()
    wrong, well = None, True
    with _stopping(running) as stop:
        while running or (waiting and not stop.is_set() and wrong is None):
            while waiting and len(running) < at_once and not stop.is_set() and wrong is None:
                job = waiting.pop(0)
                running[job.name] = job, _start(job, logs / f"{job.name}.log")
                if stop.is_set():  # it came while the run was being started
                    running[job.name][1].send_signal(signal.SIGTERM)
                say(f"{job.name}: started, log in {logs / f'{job.name}.log'}")
            for job, process in [*running.values()]:
                code = process.poll()
                if code is None:
                    continue
                del running[job.name]
                spent += job.cell.flops
                passed = time.monotonic() - begun
                left = f", about {passed * (total - spent) / spent / 60:.0f} min left"
                if code == 0:
                    say(f"{job.name}: done{left if waiting or running else ''}")
                elif code == 3:
                    sweep.remember_diverged(job)
                    say(f"{job.name}: diverged, and is not tried again")
                else:
                    last = _last_line(logs / f"{job.name}.log")
                    say(f"{job.name}: ended with exit code {code}: {last}")
                    wrong = f"run {job.name}: {last}" if code == 2 else wrong
                    well = False
            time.sleep(0.05)
    if stop.is_set():
        raise SystemExit(STOPPED)
    if wrong is not None:
        raise UserError(wrong)
    return well


def _start(job: Job, log: Path) -> subprocess.Popen:
    with open(log, "ab") as file:
        return subprocess.Popen(job.command, stdout=file, stderr=subprocess.STDOUT)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("genjax: error: ") if lines else "it has written nothing"


@contextlib.contextmanager
def _stopping(running: dict[str, Any]) -> Iterator[threading.Event]:
    """Passes SIGTERM (and Ctrl-C) on to the runs, which save and end; yields whether it came."""
    came = threading.Event()

    def stop(number, frame):
        del number, frame
        came.set()
        for _, process in [*running.values()]:
            process.send_signal(signal.SIGTERM)

    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
