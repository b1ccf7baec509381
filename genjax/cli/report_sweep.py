"""What a page of `genjax report` says of a sweep: its laws, its optima and their picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from genjax.checkpoint import Workdir
from genjax.cli.report_page import table
from genjax.cli.report_plots import slim
from genjax.cli.sweep import RESULT
from genjax.cli.sweeping import RUNS
from genjax.core.errors import UserError
from genjax.scaling import plots
from genjax.scaling.analysis import number


@dataclasses.dataclass(frozen=True)
class SweepData:
    """A sweep by its workdir's path; `found` is the content of its sweep.json."""

    path: str
    found: Mapping[str, Any]


def opened(paths: Sequence[str]) -> tuple[list[SweepData], list[str]]:
    """Returns the sweeps among workdirs, and the workdirs of all runs: a sweep's are those done.

    Raises `UserError` for a sweep that has not been fitted.
    """
    sweeps, runs = [], []
    for path in paths:
        workdir = Workdir(path)
        if workdir.exists(RESULT):
            sweep = SweepData(path, workdir.read_json(RESULT))
            sweeps.append(sweep)
            runs += [workdir.url(RUNS, point["name"]) for point in sweep.found["points"]]
        elif workdir.exists("config.json") and "sweep" in workdir.read_json("config.json"):
            raise UserError(f"{path}: has no {RESULT} yet; `genjax sweep --fit` writes it")
        else:
            runs.append(path)
    return sweeps, runs


def section(sweep: SweepData) -> tuple[str, str]:
    """Returns the title and the HTML of a sweep's section."""
    found, parts = sweep.found, []
    name = sweep.path.rstrip("/").rsplit("/", 1)[-1]
    level = f"{100 * found['level']:g} %"
    parts.append(f'<div class="wide">{slim(plots.laws(found, "svg").decode())}</div>')
    if found["law"] is not None:
        rows = [
            [escape(key), number(found["law"][key]), _interval(ends)]
            for key, ends in found["law"]["intervals"].items()
        ]
        parts.append("<h3>L(N, D) = E + A / N^alpha + B / D^beta</h3>")
        parts.append(table(["", "value", f"{level} interval"], rows))
    optima = [
        [
            f"{row['flops']:.3g}",
            "L(N, D)" if fit == "law" else "parabolas",
            *(
                f"{number(row[fit][key]['value'])} <small>{_interval(row[fit][key]['interval'])}"
                "</small>"
                if key in row[fit]
                else ""
                for key in ("N", "D", "L")
            ),
        ]
        for row in found["optima"]
        for fit in ("law", "isoflop")
        if fit in row
    ]
    if optima:
        parts.append("<h3>Compute-optimal</h3>")
        parts.append(table(["training FLOPs", "by", "N", "D (images)", "L"], optima))
    parts += [f'<p class="loud">{escape(note)}</p>' for note in found["notes"]]
    points = found["points"]
    what = f"{len(points)} runs; L is {found['metric']}, N the parameters without embeddings."
    parts.append(f"<p><small>{escape(what)}</small></p>")
    return f"Scaling laws: {name}", "".join(parts)


def _interval(ends: Sequence[float]) -> str:
    return f"{number(ends[0])} to {number(ends[1])}"
