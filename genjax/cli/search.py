"""Search better settings of a trained model's sampler, without training.

    genjax search --config configs/search/steps.py --workdir runs/search
                  --config.model=runs/fashion --config.extractor=classifier:runs/fashion-classifier
    genjax sample --workdir runs/fashion --schedule runs/search/schedule.json --num 100 --out x.npz

Candidates are times and blocks to leave out (AutoDiffusion), or any keys of the sampler: factors
of skips (Skip-Tuning), windows and cutoffs (Time-Shift), weights. Every candidate draws from the
same noise and labels; the best are measured again on fresh noise beside what they must beat. A
second call on the same workdir continues. Every key can be given as --config.a.b=value.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from genjax.core.errors import UserError

HELP = "search times, skip scales, blocks or other settings of a trained model's sampler"
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="FILE.py or FILE.py:ARGUMENT (see configs/search)")
    parser.add_argument("--workdir", help="folder of the search (also gs://...)")
    parser.add_argument("--export", help="also write the best sampler to FILE.json")
    parser.add_argument("--help-config", action="store_true", help="list every key of a config")


def run(args: argparse.Namespace) -> int:
    """Searches, measures the best again, writes results and plot; returns 0."""
    import jax

    from genjax.checkpoint import Workdir
    from genjax.cli.config import must_have, read_file, resolve
    from genjax.cli.schema import describe
    from genjax.cli.trials import SearchRun, Trials
    from genjax.core.registry import construct, expand
    from genjax.parallel import initialize
    from genjax.scaling.journal import Journal

    if args.help_config:
        print("\n".join(describe(SearchRun)))
        return 0
    must_have(args, "config", "workdir")
    if args.export and not Path(args.export).resolve().parent.is_dir():
        raise UserError(f"--export: there is no folder {Path(args.export).parent}; make it first")
    full = resolve(read_file(args.config), args.overrides, lambda c: expand(SearchRun, c, "config"))
    settings = construct(SearchRun, full)
    initialize()
    workdir = Workdir(args.workdir)
    refuse_another(workdir, full)
    trials = Trials.open(settings)
    first = jax.process_index() == 0
    if first:
        workdir.create()
        workdir.write("config.json", json.dumps({"search": full}, indent=1).encode())
    journal = Journal(workdir, writes=first)
    rounds: list[int] = []
    ranking: list[tuple[float, Any]] = []
    steps = trials.space, journal.remember(trials.fitness), np.random.default_rng(settings.seed)
    for ranking in settings.method.run(*steps, trials.prune):
        rounds.append(len(ranking))
        if first:
            value, candidate = ranking[0]
            print(
                f"{len(ranking)} candidates: {settings.metric} {trials.sign * value:.6g} with "
                f"{describe_changes(trials.changes(candidate))}",
                flush=True,
            )
    report = trials.compare(ranking)
    if not first:
        return 0
    write(workdir, args.export, report, [trials.sign * v for v in journal.values.values()], rounds)
    return 0


def write(workdir: Any, export: str | None, report: dict, values: list[float], rounds) -> None:
    """Writes results.json, schedule.json and convergence.png, and prints the comparison."""
    from genjax.scaling.plots import convergence

    schedule = json.dumps(report["schedule"], indent=1).encode()
    workdir.write("results.json", json.dumps(report, indent=1).encode())
    workdir.write("schedule.json", schedule)
    lines = {r["name"]: r["searched"] for r in report["rows"] if not r["name"].startswith("found")}
    workdir.write("convergence.png", convergence(values, rounds, lines, report["metric"]))
    if export:
        Path(export).write_bytes(schedule)
    width = max(len(row["name"]) for row in report["rows"])
    print(f"{report['metric']} on fresh noise, seeds {report['seeds']}, N = {report['num']}")
    for row in report["rows"]:
        each = ", ".join(f"{v:.5g}" for v in row["values"])
        print(f"  {row['name']:{width}s}  {row['mean']:.5g} +- {row['error']:.2g}   ({each})")
    print(f"best: {report['best']}, {describe_changes(report['changes'])}")
    where = [workdir.url(name) for name in ("results.json", "schedule.json", "convergence.png")]
    print(f"-> {', '.join(where + ([export] if export else []))}")


def describe_changes(changes: dict) -> str:
    """Returns "key=value" of sampler changes, in one line."""
    from genjax.cli.config import flat

    shown = {k: v for k, v in flat(changes).items() if not k.endswith(".name")}
    return ", ".join(f"{k}={_short(v)}" for k, v in shown.items())


def _short(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "(" + " ".join(_short(v) for v in value) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def refuse_another(workdir: Any, full: dict) -> None:
    """Raises `UserError` where the workdir holds another search, or something else."""
    if not workdir.exists("config.json"):
        return
    old = workdir.read_json("config.json").get("search")
    if old is None:
        raise UserError(f"{workdir.path}: is no folder of a search; give another --workdir")
    new = json.loads(json.dumps(full))
    free = ("final", "baselines", "batch")
    changed = [k for k in new if k not in free and old.get(k) != new[k]]
    if changed:
        raise UserError(
            f"{workdir.path}: this workdir holds another search ({', '.join(changed)} differ); "
            "give another --workdir"
        )
