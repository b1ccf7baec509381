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


def genjax(*args, devices: int = 1, **options) -> subprocess.CompletedProcess:
    """Returns the finished `genjax ARGS`."""
    return subprocess.run(
        [sys.executable, "-m", "genjax.cli.main", *map(str, args)],
        env=environment(devices),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def train_args(workdir, **overrides) -> list[str]:
    """Returns the arguments of a tiny training run; overrides use "__" for dots."""
    changed = {k.replace("__", "."): v for k, v in overrides.items()}
    return [
        "train", "--config", "configs/quickstart.py", "--workdir", str(workdir),
        *flags(TINY | changed),
    ]  # fmt: skip
