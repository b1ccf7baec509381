"""Searches of `genjax plan`: mesh, remat policy and batch that fit and train fastest."""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genjax.cli import schema
from genjax.cli.config import assign
from genjax.cli.plan_works import build, held_bytes
from genjax.cli.planning import plan
from genjax.core.errors import UserError
from genjax.layers.remat import NAMES
from genjax.parallel.aot import Topology

_FULL = 0.97  # of the memory that a batch may fill


def search(
    full: Mapping, topology: Topology, devices: Sequence[Any], wanted: Sequence[str], tries: int
) -> dict:
    """Returns the plan with the most images a second that fits, and all candidates of the search.

    `wanted`: of "mesh", "remat" and "batch". At most `tries` programs are compiled for mesh and
    remat, at most four more for the batch, which changes the run: it is the global one of the main
    stream. Raises `UserError` where nothing fits.
    """
    tried: list[dict] = []

    def attempt(changes: Mapping[str, Any]) -> dict | None:
        try:
            found = plan(schema.build_run(_changed(full, changes)), topology, devices)
        except UserError as error:  # a mesh that does not divide the model is no candidate
            tried.append({"changes": dict(changes), "refused": str(error)})
            return None
        tried.append(
            {
                "changes": dict(changes),
                "fits": found["bytes_per_chip"]["fits"],
                "total": found["bytes_per_chip"]["total"],
                "step_seconds": found["step_seconds"],
                "mfu": found["mfu"],
            }
        )
        return {**found, "changes": dict(changes)}

    found = [p for c in itertools.islice(_candidates(full, topology, devices, wanted), tries)
             if (p := attempt(c)) is not None]  # fmt: skip
    fitting = [p for p in found if p["bytes_per_chip"]["fits"] is not False]
    best = max(fitting, key=_rate, default=None)
    if "batch" in wanted:
        start = best or min(found, key=lambda p: p["bytes_per_chip"]["total"] or 0, default=None)
        best = start and _largest(start, attempt, devices)
    if best is None:
        raise UserError(
            f"--search: none of {len(tried)} programs fits {topology}; choose a larger slice, a "
            "smaller batch, or search mesh,remat,batch"
        )
    return {**best, "search": tried}


def _rate(found: dict) -> float:
    return found["batch"] / (found["step_seconds"] or found["roofline_seconds"])


def _changed(full: Mapping, changes: Mapping[str, Any]) -> dict:
    out = copy.deepcopy(dict(full))
    for key, value in changes.items():
        assign(out, key, value)
    return out


def _candidates(
    full: Mapping, topology: Topology, devices: Sequence[Any], wanted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yields changes of the config, the likeliest first; what cannot hold its state is left out."""
    meshes: list[dict] = [{}]
    if "mesh" in wanted:
        n = len(devices) // topology.slices
        shapes = [(1, n, 1), (n, 1, 1), (2, n // 2, 1), (1, n // 2, 2), (n // 4, 4, 1),
                  (1, n // 4, 4), (n // 8, 8, 1), (1, n // 8, 8)]  # fmt: skip
        shapes = [s for s in dict.fromkeys(shapes) if math.prod(s) == n]
        meshes = [
            {"mesh.data": d, "mesh.fsdp": f, "mesh.tensor": t, "mesh.context": 1}
            for d, f, t in shapes
        ]
    model = full["task"].get("model", {})
    policies = [model.get("remat")]
    if "remat" in wanted and "remat" in model:
        policies = list(dict.fromkeys([model["remat"], "dots", "weights", "none", "full"]))
        policies = [name for name in policies if name in NAMES]
    for policy, mesh in itertools.product(policies, meshes):
        changes = {**mesh} if policy is None else {**mesh, "task.model.remat": policy}
        if _state_fits(full, changes, topology, devices):
            yield changes


def _state_fits(full: Mapping, changes: Mapping, topology: Topology, devices: Sequence) -> bool:
    try:
        state = build(schema.build_run(_changed(full, changes)), devices).abstract
    except UserError:
        return False
    return held_bytes(state) < topology.chip.memory


def _largest(start: dict, attempt: Any, devices: Sequence[Any]) -> dict | None:
    """Returns the plan with the largest batch that fits.

    Memory is affine in the batch: two plans give the line, a third confirms what it promises.
    """
    sizes, name = start["mesh"], "data.main.batch"
    parts = sizes["data"] * sizes["fsdp"]
    per = max(start["batch"] // parts, 1)
    other = max(per // 2, 1) if per > 1 else 2
    memory = start["bytes_per_chip"]
    second = attempt({**start.get("changes", {}), name: other * parts})
    if second is None or memory["total"] is None or second["bytes_per_chip"]["total"] is None:
        return second
    slope = (memory["total"] - second["bytes_per_chip"]["total"]) / (per - other)
    best = max((p for p in (start, second) if p["bytes_per_chip"]["fits"]),
               key=lambda p: p["batch"], default=None)  # fmt: skip
    if slope <= 0:
        return best
    room = _FULL * memory["capacity"] - memory["total"]
    guess = per + math.floor(room / slope)
    for _ in range(3):
        if guess < 1 or (best is not None and guess * parts <= best["batch"]):
            return best
        found = attempt({**start.get("changes", {}), name: guess * parts})
        if found is not None and found["bytes_per_chip"]["fits"]:
            return found
        guess = min(guess - 1, math.floor(guess * 0.9))
    return best
