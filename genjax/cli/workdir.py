"""The workdir's `config.json`: what a run is, and what may change when it resumes."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from genjax.checkpoint import Workdir
from genjax.cli.config import flat, plain
from genjax.core.errors import UserError

# What a run is. Everything else (mesh, rules, cadences, total images, logging, target) may change.
_IDENTITY = ("seed", "task", "data", "optimizer", "ema", "init")
# Parts of those that do not change what is learned.
_FREE = ("sampler", "remat", "workers", "threads", "prefetch", "path", "data_dir")


def read_config(workdir: Workdir) -> dict | None:
    """Returns the resolved config of a workdir, None where there is none yet."""
    if not workdir.exists("config.json"):
        return None
    try:
        return plain(workdir.read_json("config.json")["config"])
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{workdir.path}/config.json: cannot be read ({error}); restore the file"
        ) from error


def write_config(
    workdir: Workdir,
    full: Mapping,
    *,
    changed: Sequence[str],
    flags: Sequence[str],
    params: int,
    mesh: Mapping[str, int],
    frozen: Mapping,
) -> None:
    """Writes `config.json`: resolved config, flags, versions, revision, mesh, parameters.

    `frozen`: path, format and hash of the networks that are read and never trained. `changed`:
    lines of `changes` against the config that stood there; `history` keeps those of all resumes.
    """
    before = workdir.read_json("config.json") if workdir.exists("config.json") else {}
    history = before.get("history", []) + ([list(changed)] if changed else [])
    content = {
        "config": full,
        "flags": list(flags),
        "versions": {
            name: metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")
        },
        "python": sys.version.split()[0],
        "revision": _revision(),
        "mesh": dict(mesh),
        "parameters": params,
        "frozen": dict(frozen),
        "history": history,
        "devices": [jax.devices()[0].device_kind, jax.device_count()],
    }
    workdir.write("config.json", json.dumps(content, indent=1).encode())


def changes(old: Mapping, new: Mapping) -> tuple[list[str], list[str]]:
    """Returns lines "key: old -> new" of what may not change, and of what may."""
    before, after = flat(_json(old)), flat(_json(new))
    refused, allowed = [], []
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key), after.get(key)
        if a == b:
            continue
        parts = key.split(".")
        free = parts[0] not in _IDENTITY or any(part in _FREE for part in parts)
        (allowed if free else refused).append(f"{key}: {a!r} -> {b!r}")
    return refused, allowed


def _json(config: Mapping) -> Any:
    """Returns the config as JSON would give it back (tuples are lists)."""
    return json.loads(json.dumps(config))


def _revision() -> str | None:
    try:
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()
