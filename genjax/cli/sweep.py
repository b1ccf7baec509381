"""Train a design of runs (sizes x budgets), fit scaling laws to them, and plot.

    genjax sweep --config configs/sweeps/shapes.py --workdir runs/sweep
    genjax sweep --config configs/sweeps/shapes.py --workdir gs://bucket/sweep --emit jobs.jsonl
    genjax report runs/sweep --out sweep.html

Each run is a `genjax train` in runs/NAME of the workdir. A second call trains what is not done yet
and fits again. Every key can be given as --config.a.b=value.
"""

import argparse
import json
import sys
from typing import Any

from genjax.core.errors import UserError

HELP = "train a design of runs, and fit and plot their scaling laws"
TAKES_CONFIG = True
RESULT, PLOT = "sweep.json", "sweep.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="FILE.py or FILE.py:ARGUMENT (see configs/sweeps)")
    parser.add_argument("--workdir", help="folder of the sweep (also gs://...)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine")
    parser.add_argument("--emit", help="write the runs not done as FILE.sh or FILE.jsonl; run none")
    parser.add_argument("--fit", action="store_true", help="run nothing; fit what is done")
    parser.add_argument("--dry-run", action="store_true", help="print the runs, and do nothing")
    parser.add_argument("--help-config", action="store_true", help="list every key of a config")


def run(args: argparse.Namespace) -> int:
    """Runs, emits or only fits; returns 0, or 1 where a run failed that may be tried again."""
    from genjax.checkpoint import Workdir
    from genjax.cli import sweep_jobs
    from genjax.cli.config import must_have, read_file, resolve
    from genjax.cli.schema import describe
    from genjax.cli.sweeping import Sweep, SweepRun, table
    from genjax.core.registry import construct, expand

    if args.help_config:
        print("\n".join(describe(SweepRun)))
        return 0
    must_have(args, "config", "workdir")
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give a positive number")
    if sum(map(bool, (args.emit, args.fit, args.dry_run))) > 1:
        raise UserError("--emit, --fit and --dry-run exclude each other; give one")
    full = resolve(read_file(args.config), args.overrides, lambda c: expand(SweepRun, c, "config"))
    workdir = Workdir(args.workdir)
    _refuse_another(workdir)
    sweep = Sweep.open(construct(SweepRun, full), workdir)
    points = {job.name: point for job in sweep.jobs if (point := sweep.point(job)) is not None}
    undone = [j for j in sweep.jobs if j.name not in points and not sweep.diverged(j)]
    if args.dry_run:
        print("\n".join(table(sweep, points)))
        return 0
    if args.emit:
        sweep_jobs.emit(args.emit, undone)
        print(f"{len(undone)} of {len(sweep.jobs)} runs -> {args.emit}")
        return 0
    workdir.create()
    workdir.write("config.json", json.dumps({"sweep": full}, indent=1).encode())
    well = True
    if not args.fit:
        say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
        say(f"{len(points)} of {len(sweep.jobs)} runs are done")
        well = sweep_jobs.run_all(sweep, undone, args.jobs, say)
        points |= {job.name: point for job in undone if (point := sweep.point(job)) is not None}
    print("\n".join(table(sweep, points)))
    write(sweep, [points[job.name] for job in sweep.jobs if job.name in points])
    return 0 if well else 1


def write(sweep: Any, points: list) -> None:
    """Writes sweep.json and sweep.png, and prints the fits; nothing where no run is done."""
    from genjax.scaling import plots
    from genjax.scaling.analysis import analyse, describe

    if not points:
        print("no run is done yet: there is nothing to fit")
        return
    found = analyse(points, sweep.settings.fit) | {"metric": sweep.metric}
    sweep.workdir.write(RESULT, json.dumps(found, indent=1).encode())
    sweep.workdir.write(PLOT, plots.laws(found))
    print("\n".join(describe(found)))
    print(f"-> {sweep.workdir.url(RESULT)}, {sweep.workdir.url(PLOT)}")


def _refuse_another(workdir: Any) -> None:
    """Raises `UserError` where the workdir is no sweep's. Sizes and budgets of one may change."""
    if workdir.exists("config.json") and "sweep" not in workdir.read_json("config.json"):
        raise UserError(f"{workdir.path}: is no folder of a sweep; give another --workdir")
