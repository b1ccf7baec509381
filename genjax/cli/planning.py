"""What `genjax plan` computes: the figures of one run's training step on one topology."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from genjax.core.tree import size
from genjax.core.types import Player
from genjax.parallel import aot, flops, hlo, replicated, timeline
from genjax.parallel.aot import Topology
from genjax.parallel.interconnect import fabric
from genjax.training.program import PASSES, Program, program
from genjax.training.state import acting


def build(run: Any, devices: Sequence[Any]) -> Program:
    """Returns the program that `genjax train` would run on `devices`; allocates nothing."""
    batch = {name: settings.batch for name, settings in run.data.items()}
    mesh = run.mesh.build(devices)
    return program(run.task, run.optimizer, run.ema, run.train, batch, mesh, run.rules)


def usual(players: Sequence[Player]) -> tuple[Player, ...]:
    """Returns the players of the most frequent kind of step, once all have begun."""
    begin = max(player.start for player in players)
    period = math.lcm(*(player.every for player in players))
    kinds: dict[tuple[str, ...], int] = {}
    sets = {}
    for step in range(begin, begin + period):
        now = acting(players, step)
        names = tuple(player.name for player in now)
        kinds[names], sets[names] = kinds.get(names, 0) + 1, now
    return sets[max(kinds, key=lambda names: kinds[names])]


def plan(run: Any, topology: Topology, devices: Sequence[Any]) -> dict[str, Any]:
    """Returns the figures that `genjax plan` prints, as JSON (bytes and seconds are a device's).

    Figures that cannot be had are None, with their reason under "missing".
    """
    made = build(run, devices)
    mesh, chip = made.recipe.mesh, topology.chip
    everywhere = replicated(mesh)
    frozen = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        run.task.frozen_shapes(),
    )
    now = usual(run.task.players)
    traced = made.step(now).trace(*made.arguments(now, frozen))
    batch = made.recipe.batch
    model_flops = PASSES * run.task.forward_flops() * batch
    figures: dict[str, Any] = {
        "topology": str(topology),
        "chips": topology.chips,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "batch": batch,
        "batch_per_device": batch / mesh.size,
        "players": [player.name for player in now],
        "params": size(made.abstract.params),
        "state_bytes": _state(made, frozen),
        "flops_per_step": model_flops,
        "program_flops": flops.count(traced.jaxpr),
        "missing": {},
    }
    missing = figures["missing"]
    compiled, cost = None, None
    if topology.gpu:
        reason = "no compiler for GPUs is at hand; from the lowered program alone"
        missing |= dict.fromkeys(("temporaries", "step_seconds", "collectives"), reason)
    else:
        compiled = aot.compile_for(traced.lower())
        if compiled.text is None:
            missing |= dict.fromkeys(("step_seconds", "collectives"), compiled.why)
        elif chip.clock is None:
            why = f"the clock behind the compiler's cycles is not known for {topology.kind}"
            missing["step_seconds"] = missing["collectives"] = why
        else:
            cost = timeline.price(hlo.parse(compiled.text), fabric(chip, mesh))
    figures["bytes_per_chip"] = _memory(figures, compiled, topology)
    figures["compile_seconds"] = compiled.seconds if compiled else None
    return figures | _times(figures, cost, topology, run.train.images)


def _state(made: Program, frozen: Mapping) -> dict[str, float]:
    state = made.abstract
    parts = {
        "parameters": state.params,
        "optimizer": state.opt,
        "ema": state.ema,
        "mutable": state.mutable,
        "frozen": frozen,
    }
    return {name: sum(map(local_bytes, jax.tree.leaves(tree))) for name, tree in parts.items()}


def local_bytes(x: Any) -> float:
    """Returns the bytes of an array on one device."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


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


def _times(figures: dict, cost: timeline.Cost | None, topology: Topology, images: int) -> dict:
    """Returns the times of a step, what limits it, and the length of training.

    roofline_seconds: the largest of the model's FLOPs at the peak, the state read and written once
    at the memory's bandwidth, and the collectives one after the other; mfu_bound is the MFU that it
    leaves. step_seconds: by the compiler's cycles, kernels and what is waited for.
    """
    chip, n = topology.chip, figures["devices"]
    state = {k: v for k, v in figures["state_bytes"].items() if k != "frozen"}
    ideal = figures["flops_per_step"] / (n * chip.flops)
    floors = {
        "compute": ideal,
        "memory bandwidth": 2 * sum(state.values()) / chip.bandwidth,
        "collectives": math.fsum(row[2] for row in cost.collective.values()) if cost else 0.0,
    }
    floor = max(floors.values())
    out: dict[str, Any] = {"roofline_seconds": floor, "mfu_bound": ideal / floor}
    out["step_seconds"] = out["mfu"] = out["kernel_share"] = None
    out["collective_bytes_per_chip"], out["collectives"], out["sources"] = None, None, None
    out["limits"] = max(floors, key=lambda name: floors[name])
    seconds = floor
    if cost is not None:
        seconds = cost.seconds
        by_kind: dict[str, float] = {}
        for (kind, _), row in cost.collective.items():
            by_kind[kind] = by_kind.get(kind, 0.0) + row[1] * chip.cores
        waits, work = cost.waiting, cost.compute + cost.kernels
        out |= {
            "step_seconds": seconds,
            "mfu": ideal / seconds,
            "compute_seconds": cost.compute,
            "kernel_seconds": cost.kernels,
            "waiting_seconds": waits,
            "kernel_share": cost.kernels / seconds,
            "limits": "collectives" if waits > work else "compute",
            "collective_bytes_per_chip": by_kind,
            "collectives": [
                {"kind": kind, "axes": axes, "count": row[0], "bytes": row[1], "seconds": row[2],
                 "waiting": row[3]}
                for (kind, axes), row in sorted(cost.collective.items(), key=lambda x: -x[1][2])
            ],
            "sources": dict(sorted(cost.fusions.items(), key=lambda x: -x[1])[:40]),
        }  # fmt: skip
    steps = -(-images // figures["batch"])
    out |= {"steps": steps, "days": steps * seconds / 86400}
    out["chip_hours"] = out["days"] * 24 * figures["chips"]
    return out
