"""The check of a run's workers at its start: one machine that differs costs a whole pod."""

import collections
import hashlib
import json
import pathlib
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from genjax.core.errors import UserError
from genjax.parallel import coordination

CLOCKS_APART = 30.0  # seconds; loaded machines leave a barrier within a few
PATIENCE = 300_000  # milliseconds, as for joining the run
MEND = {
    "jax": "install the same version everywhere",
    "jaxlib": "install the same version everywhere",
    "libtpu": "install the same version everywhere",
    "python": "make the environment with the same Python everywhere",
    "genjax": "copy the same checkout everywhere",
    "devices": "leave that machine out, or look why it does not show all of its devices",
}


def check_workers() -> None:
    """Compares the workers of a run that has just been joined, before anything is computed.

    Versions (Python, jax, jaxlib, libtpu, genjax's own files) and clocks are compared before the
    devices are touched, their number and kind afterwards. Raises the same `UserError` on every
    worker, naming those that differ from most.
    """
    client = coordination.client()
    client.wait_at_barrier("genjax/start", PATIENCE)
    found = {"host": socket.gethostname(), "clock": time.time()} | _versions()
    _compare(client, "versions", found)
    devices = f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}"
    _compare(client, "devices", {"host": found["host"], "devices": devices})


def _compare(client: Any, name: str, mine: Mapping) -> None:
    folder = f"genjax/{name}"
    client.key_value_set(f"{folder}/{coordination.process()}", json.dumps(mine))
    client.wait_at_barrier(folder, PATIENCE)
    # One request for all: a pod has a thousand workers, and each wants to know of each.
    found = {
        key.rpartition("/")[2]: json.loads(text) for key, text in client.key_value_dir_get(folder)
    }
    problem = difference([found[str(i)] for i in range(len(found))])
    if problem:
        raise UserError(problem)


def difference(workers: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns a line about the first thing in which the workers differ, or None.

    `workers`: what each has found, by process: "host", "clock" (Unix time in seconds, read at the
    same moment) and the keys of `MEND`, each of them optional. The value of most workers counts as
    right; of as many, the one of the lower process.
    """
    for key in (k for k in MEND if k in workers[0]):
        values = [worker[key] for worker in workers]
        right = collections.Counter(values).most_common(1)[0][0]
        wrong = [
            f"{_name(workers, i)} has {value}" for i, value in enumerate(values) if value != right
        ]
        if wrong:
            others = f"the others have {right}; {MEND[key]}"
            return f"the workers differ in {key}: {_some(wrong)}, {others}"
    if "clock" in workers[0]:
        clocks = [worker["clock"] for worker in workers]
        agreeing = [sum(abs(a - b) <= CLOCKS_APART for b in clocks) for a in clocks]
        right = agreeing.index(max(agreeing))
        off = [clock - clocks[right] for clock in clocks]
        wrong = [
            f"{_name(workers, i)} is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
            for i, seconds in enumerate(off)
            if abs(seconds) > CLOCKS_APART
        ]
        if wrong:
            return (
                f"the workers' clocks differ: {_some(wrong)} {_name(workers, right)}; "
                "set them by NTP"
            )
    return None


def _name(workers: Sequence[Mapping[str, Any]], process: int) -> str:
    return f"worker {process} ({workers[process]['host']})"


def _some(phrases: Sequence[str]) -> str:
    """Joins at most four phrases; a pod has hundreds of workers."""
    more = f" and {len(phrases) - 4} more" if len(phrases) > 4 else ""
    return ", ".join(phrases[:4]) + more


def _versions() -> dict[str, str]:
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: _version(package) for package in ("jax", "jaxlib", "libtpu")},
        "genjax": _sources(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _sources() -> str:
    """Returns genjax's version with a hash of its files: checkouts differ under one version."""
    import genjax

    root = pathlib.Path(genjax.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{genjax.__version__}+{total.hexdigest()[:8]}"
