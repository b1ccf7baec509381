"""What `genjax plan` computes: the figures of one program of a run on one topology."""

import math
from collections.abc import Sequence
from typing import Any

from genjax.cli.plan_works import WORKS, Work
from genjax.parallel import aot, hlo, timeline
from genjax.parallel.aot import Topology
from genjax.parallel.interconnect import fabric


def plan(
    run: Any,
    topology: Topology,
    devices: Sequence[Any],
    what: str = "train",
    batch: int | None = None,
) -> dict[str, Any]:
    """Returns the figures that `genjax plan` prints, as JSON (bytes and seconds are a device's).

    `what`: of `plan_works.WORKS`; `batch`: images at a time, where the config does not say it.
    Figures that cannot be had are None, with their reason under "missing".
    """
    work = WORKS[what](run, devices, batch)
    mesh, chip = work.mesh, topology.chip
    figures: dict[str, Any] = {
        "what": what,
        "topology": str(topology),
        "chips": topology.chips,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "batch": work.batch,
        "batch_per_device": work.batch / mesh.size,
        "players": list(work.players),
        "params": work.params,
        "state_bytes": work.state,
        "flops_per_step": work.flops,
        "program_flops": work.program_flops,
        "missing": {},
    }
    missing = figures["missing"]
    compiled, cost = None, None
    if topology.gpu:
        reason = "no compiler for GPUs is at hand; from the lowered program alone"
        missing |= dict.fromkeys(("temporaries", "step_seconds", "collectives"), reason)
    else:
        compiled = aot.compile_for(work.traced.lower())
        if compiled.text is None:
            missing |= dict.fromkeys(("step_seconds", "collectives"), compiled.why)
        elif chip.clock is None:
            why = f"the clock behind the compiler's cycles is not known for {topology.kind}"
            missing["step_seconds"] = missing["collectives"] = why
        else:
            cost = timeline.price(hlo.parse(compiled.text), fabric(chip, mesh))
    figures["bytes_per_chip"] = _memory(figures, compiled, topology)
    figures["compile_seconds"] = compiled.seconds if compiled else None
    figures |= _times(figures, work, cost, topology)
    return figures | _lasts(figures, work, run.train.images)


def _memory(figures: dict, compiled: aot.Compiled | None, topology: Topology) -> dict[str, Any]:
    """Returns the memory of a chip: the compiler's figures and the frozen networks beside them.

    Networks that a step does not read (the decoder of sample grids) are none of its arguments, but
    lie in memory all the same.
    """
    state, cores = figures["state_bytes"], topology.chip.cores
    held = sum(state.values())
    capacity = topology.chip.memory
    if compiled is None:
        out = {"arguments": held, "temporaries": None, "total": None, "fits": None}
        out["fits"] = False if held > capacity else None
    else:
        idle = max(held - compiled.arguments, 0.0) if compiled.arguments is not None else 0.0
        total = compiled.total + idle
        out = {
            "arguments": None if compiled.arguments is None else compiled.arguments + idle,
            "temporaries": compiled.temporaries,
            "total": total,
            "fits": compiled.fits and total <= capacity,
        }
    scaled = {
        k: v * cores if isinstance(v, float | int) and k != "fits" else v for k, v in out.items()
    }
    return {**scaled, "capacity": capacity * cores}


def _times(
    figures: dict, work: Work, cost: timeline.Cost | None, topology: Topology
) -> dict[str, Any]:
    """Returns the times of a step and what limits it.

    roofline_seconds: the largest of the model's FLOPs at the peak, what must be read and written
    at the memory's bandwidth, and the collectives one after the other; mfu_bound is the MFU that it
    leaves. step_seconds: by the compiler's cycles, kernels and what is waited for.
    """
    chip, n = topology.chip, figures["devices"]
    ideal = figures["flops_per_step"] / (n * chip.flops)
    floors = {
        "compute": ideal,
        "memory bandwidth": work.touched / chip.bandwidth,
        "collectives": math.fsum(row[2] for row in cost.collective.values()) if cost else 0.0,
    }
    floor = max(floors.values())
    out: dict[str, Any] = {"roofline_seconds": floor, "mfu_bound": ideal / floor}
    out["step_seconds"] = out["mfu"] = out["kernel_share"] = None
    out["collective_bytes_per_chip"], out["collectives"], out["sources"] = None, None, None
    out["limits"] = max(floors, key=lambda name: floors[name])
    if cost is not None:
        seconds = cost.seconds
        by_kind: dict[str, float] = {}
        for (kind, _), row in cost.collective.items():
            by_kind[kind] = by_kind.get(kind, 0.0) + row[1] * chip.cores
        waits, busy = cost.waiting, cost.compute + cost.kernels
        out |= {
            "step_seconds": seconds,
            "mfu": ideal / seconds,
            "compute_seconds": cost.compute,
            "kernel_seconds": cost.kernels,
            "waiting_seconds": waits,
            "kernel_share": cost.kernels / seconds,
            "limits": "collectives" if waits > busy else "compute",
            "collective_bytes_per_chip": by_kind,
            "collectives": [
                {"kind": kind, "axes": axes, "count": row[0], "bytes": row[1], "seconds": row[2],
                 "waiting": row[3]}
                for (kind, axes), row in sorted(cost.collective.items(), key=lambda x: -x[1][2])
            ],
            "sources": dict(sorted(cost.fusions.items(), key=lambda x: -x[1])[:40]),
        }  # fmt: skip
    return out


def _lasts(figures: dict, work: Work, images: int) -> dict[str, Any]:
    """Returns how long the whole takes: training to its last image, or drawing 1,000 images."""
    seconds = figures["step_seconds"] or figures["roofline_seconds"]
    if work.what == "train":
        steps = -(-images // work.batch)
        out: dict[str, Any] = {"steps": steps, "days": steps * seconds / 86400}
        return out | {"chip_hours": out["days"] * 24 * figures["chips"]}
    rate = work.batch / (seconds * work.calls)
    hours = 1000 / rate / 3600 * figures["chips"]
    return {"calls": work.calls, "images_per_second": rate, "chip_hours": hours}
