"""Write one self-contained HTML page about one or several runs, or about sweeps.

    genjax report runs/a runs/b --out report.html
    genjax report runs/sweep --out sweep.html

It opens from disk, without network: what differs between the configurations, curves over images and
training FLOPs, values with their protocols and targets, sample grids, and sampler settings. Values
come from metrics.jsonl, from the JSON that `genjax eval --json WORKDIR/NAME.json` writes into the
workdirs, and from evaluations during training.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from genjax.cli import report_runs
from genjax.cli.report_runs import RunData
from genjax.core.errors import UserError

HELP = "write one self-contained HTML page about one or several runs"
# Neither curves of learning nor of speed.
_IDLE = {"step", "images", "seconds", "eta_seconds", "model_tflops"}
_MEANS = {"grad_norm", "learning_rate", "images_per_second", "mfu"}
_FOLDERS = {"heldout": "held-out", "eval": "samples:"}
Line = tuple[int, int, Sequence[float], Sequence[float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs, also of sweeps")
    parser.add_argument("--out", required=True, help="file of the page (.html)")


def run(args: argparse.Namespace) -> int:
    """Writes the page; returns 0."""
    from genjax.cli import report_sweep
    from genjax.cli.report_page import page
    from genjax.cli.report_plots import colours

    sweeps, paths = report_sweep.opened(args.runs)
    names = report_runs.short_names(paths)
    runs = [report_runs.read_run(path, name) for path, name in zip(paths, names)]
    palette = colours(len(runs))
    text = page(runs, palette, charts(runs, palette), list(map(report_sweep.section, sweeps)))
    try:
        Path(args.out).write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"--out: {args.out} cannot be written ({error.strerror})") from error
    print(f"{len(runs)} run{'s' * (len(runs) > 1)} -> {args.out} ({len(text) / 1e6:.1f} MB)")
    return 0


def charts(runs: Sequence[RunData], palette: Sequence[str]) -> dict[str, list]:
    """Returns the charts under their headings, as `report_page.page` takes them."""
    found: dict[str, list] = {"Learning": [], "Quality of samples": [], "Speed and optimiser": []}
    for (folder, metric), kinds in metrics_of(runs).items():
        heading = "Quality of samples" if folder == "eval" else "Learning"
        if not folder and metric.rsplit("/", 1)[-1] in _MEANS:
            heading = "Speed and optimiser"
        names = [f"{folder}/{kind}/{metric}" if folder else metric for kind in kinds]
        title = f"{_FOLDERS.get(folder, '')} {metric}".strip().replace("_", " ")
        if (drawn := _both_axes(runs, names, palette)) is not None:
            note = _kinds_note(kinds) if folder else ""
            found[heading].append((title, *drawn, note))
    return found


def metrics_of(runs: Sequence[RunData]) -> dict[tuple[str, str], list[str]]:
    """Returns (folder, metric) -> kinds of weights, averages first; the folder is "" for training.

    A part of the loss that equals it everywhere is left out.
    """
    names = dict.fromkeys(name for run in runs for line in run.lines for name in line)
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        if name in _IDLE or name.endswith("/loss_error") or _repeats_loss(runs, name):
            continue
        if folder in _FOLDERS:
            kind, _, metric = rest.partition("/")
            found.setdefault((folder, metric), []).append(kind)
        else:
            found.setdefault(("", name), []).append("")
    ordered = sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != "loss"))
    return {k: sorted(kinds, key=lambda kind: kind == "raw") for k, kinds in ordered}


def _repeats_loss(runs: Sequence[RunData], name: str) -> bool:
    loss = "/".join((*name.split("/")[:-1], "loss"))
    if name == loss:
        return False
    pairs = [(line[name], line.get(loss)) for run in runs for line in run.lines if name in line]
    return all(a == b for a, b in pairs)


def _kinds_note(kinds: Sequence[str]) -> str:
    """Returns what the dashes of lines mean."""
    said = ("solid", "dashed", "dotted", "dash-dotted")
    return ", ".join(f"{said[k % len(said)]}: {kind}" for k, kind in enumerate(kinds))


def _both_axes(
    runs: Sequence[RunData], names: Sequence[str], palette: Sequence[str]
) -> tuple[str, str] | None:
    """Returns the chart over images and that over FLOPs ("" where no run tells them)."""
    from genjax.cli.report_plots import chart

    def lines(scale: Callable[[RunData], float | None]) -> list[Line]:
        out = []
        for i, run in enumerate(runs):
            for kind, name in enumerate(names):
                (x, y), each = run.curve(name), scale(run)
                if y and each:
                    out.append((i, kind, [v * each for v in x], y))
        return out

    images, flops = lines(lambda run: 1.0), lines(lambda run: run.flops_per_image)
    if not images:
        return None
    over_flops = chart(flops, palette, "training FLOPs") if flops else ""
    return chart(images, palette, "images"), over_flops
