"""Runs the `genjax` command in processes of its own, on a run small enough for a test."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Eight images a step through a DiT of one block: a step takes milliseconds.
TINY = {
    "task.model.depth": 1,
    "task.model.width": 32,
    "task.model.heads": 2,
    "task.sampler.steps": 3,
    "data.main.batch": 8,
    "train.images": 8 * 40,
    "checkpoint.every_images": 8 * 3,
    "log.every_images": 8,
    "log.tensorboard": False,
}


def flags(overrides: dict) -> list[str]:
    """Returns the overrides as flags."""
    return [f"--config.{key}={value}" for key, value in overrides.items()]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the environment of a command on `devices` virtual CPU devices."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GENJAX_")}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    return env


def genjax(*args, devices: int = 1, timeout: float = 600, **options) -> subprocess.CompletedProcess:
    """Returns the finished `genjax ARGS`. `timeout`: seconds."""
    return subprocess.run(
        [sys.executable, "-m", "genjax.cli.main", *map(str, args)],
        env=environment(devices),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


def started(*command, until: str, **env: str) -> subprocess.Popen:
    """Returns the running command after a line of its stderr that begins with `until`."""
    process = subprocess.Popen(
        list(command), env=environment() | env, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(until):
            break
    return process


def train_args(workdir, **overrides) -> list[str]:
    """Returns the arguments of a tiny training run; overrides use "__" for dots."""
    changed = {k.replace("__", "."): v for k, v in overrides.items()}
    return [
        "train", "--config", "configs/quickstart.py", "--workdir", str(workdir),
        *flags(TINY | changed),
    ]  # fmt: skip


def genjax_processes(number: int, devices: int, *args, folder: Path) -> subprocess.CompletedProcess:
    """Returns the finished `launch/local_processes.sh NUMBER DEVICES ARGS`.

    `folder` gets an environment that has all installed: this Python.
    """
    for name, does in {
        "python": f'[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"',
        "genjax": f'exec {sys.executable} -m genjax.cli.main "$@"',
    }.items():
        script = folder / "environment" / "bin" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!/bin/sh\n{does}\n")
        script.chmod(0o755)
    return subprocess.run(
        ["bash", "launch/local_processes.sh", str(number), str(devices), *map(str, args)],
        env=environment() | {"VIRTUAL_ENV": str(folder / "environment")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
