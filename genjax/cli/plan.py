"""Plan a run for machines that are not there: memory, time, what limits, days and cost.

The training step that `genjax train` would run, a batch of samples or one step of decoding codes
is compiled for the topology; nothing is allocated and no accelerator is needed. TPU topologies need
libtpu (extra `plan`). Every key of the config can be given as --config.a.b=VALUE.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from genjax.core.errors import UserError

HELP = "memory, time and cost of a run on a TPU or GPU topology, without the hardware"
TAKES_CONFIG = True
WHATS = ("train", "sample", "decode")
SEARCHES = ("batch", "mesh", "remat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="FILE.py or FILE.py:ARGUMENT")
    parser.add_argument("--topology", help="v5e:4x4, v5p:8x8x8, v6e:16x16, h100:8, ...")
    parser.add_argument("--what", default="train", help=f"one of {', '.join(WHATS)}")
    parser.add_argument("--batch", type=int, help="images at a time of sample and decode")
    parser.add_argument("--slices", type=int, default=1, help="TPU slices joined by DCN")
    parser.add_argument("--mesh", default="", help="data=1,fsdp=16,... (default: the config's)")
    parser.add_argument("--search", default="", help=f"any of {','.join(SEARCHES)}")
    parser.add_argument("--tries", type=int, default=8, help="programs that a search compiles")
    parser.add_argument("--price", type=float, help="of a chip-hour; adds the cost of the whole")
    parser.add_argument("--json", help="file for the figures")


def run(args: argparse.Namespace) -> int:
    """Prints the plan and writes it as JSON; returns 0 whether or not it fits."""
    from genjax.cli import schema
    from genjax.cli.config import must_have, read_file, resolve
    from genjax.cli.plan_text import describe
    from genjax.parallel import aot

    must_have(args, "config", "topology")
    wanted = tuple(filter(None, args.search.split(",")))
    for name in wanted:
        if name not in SEARCHES:
            raise UserError(f"--search {name}: choose of {', '.join(SEARCHES)}")
    if args.what not in WHATS:
        raise UserError(f"--what {args.what}: choose of {', '.join(WHATS)}")
    if args.what == "train" and args.batch is not None:
        raise UserError("--batch: training's is the config's; give --config.data.main.batch=N")
    if args.batch is not None and args.batch < 1:
        raise UserError(f"--batch {args.batch}: give a positive number")
    if args.what != "train" and wanted:
        raise UserError("--search: is for training; leave it out, or --what")
    if args.tries < 1:
        raise UserError(f"--tries {args.tries}: give a positive number")
    if args.json and not Path(args.json).resolve().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no such folder; create it")
    topology = aot.parse_topology(args.topology, args.slices)
    overrides = [*args.overrides, *(("mesh." + k, str(n)) for k, n in mesh_sizes(args.mesh))]
    full = resolve(read_file(args.config), overrides, schema.expand_run)
    devices = aot.devices(topology)
    found = _found(args, full, topology, devices, wanted)
    if args.price is not None:
        found["cost"] = found["chip_hours"] * args.price
    found = {"config": args.config, **found}
    print("\n".join(describe(found)))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _found(
    args: argparse.Namespace, full: dict, topology: Any, devices: Any, wanted: tuple[str, ...]
) -> dict:
    from genjax.cli import schema
    from genjax.cli.plan_search import search
    from genjax.cli.planning import plan

    if wanted:
        return search(full, topology, devices, wanted, args.tries)
    return plan(schema.build_run(full), topology, devices, args.what, args.batch)


def mesh_sizes(text: str) -> list[tuple[str, int]]:
    """Returns (key of the mesh, size) of "data=1,fsdp=16"; axes that are left out have size 1.

    Raises `UserError` for what is no such list.
    """
    from genjax.parallel import MeshSpec

    if not text:
        return []
    keys = [field.name for field in dataclasses.fields(MeshSpec)]
    sizes = {key: 1 for key in keys if not key.startswith("dcn_")}
    for part in text.split(","):
        key, _, n = part.partition("=")
        if key not in keys or not n.lstrip("-").isdigit():
            raise UserError(
                f"--mesh {text}: {part!r} is none of {', '.join(k + '=N' for k in keys)}"
            )
        sizes[key] = int(n)
    return list(sizes.items())
