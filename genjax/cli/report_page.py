"""The page of `genjax report`: one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from genjax.cli.report_runs import Grid, Measured, RunData
from genjax.cli.report_style import SCRIPT, STYLE

_PNG_MOST = 60_000  # bytes of a picture up to which it stays as it is


def page(
    runs: Sequence[RunData],
    palette: Sequence[str],
    charts: dict[str, list],
    sweeps: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns the page of these runs.

    `charts`: heading -> (title, SVG over images, SVG over FLOPs or "", line below) each; `sweeps`:
    (title, HTML) of each sweep, see `report_sweep.section`.
    """
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _choices(runs, palette),
        *(section(*sweep) for sweep in sweeps),
        section("Runs", _overview(runs, palette)),
        *(section(name, _charts(found)) for name, found in charts.items() if found),
        section("Measured", _metrics(runs, palette)),
        section("Samples over training", _samples(runs, palette)),
        section("What differs", _differences(runs, palette)) if len(runs) > 1 else "",
        section("How samples are drawn", _samplers(runs, palette)),
        section("Configuration", _configs(runs, palette)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)} - genjax report</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def number(value: Any) -> str:
    """Returns a number in few characters; other values as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Returns seconds in two units, such as "3 h 20 min"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {m} min" if hours else f"{m} min {s} s"


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _choices(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    """Returns the switches: which runs are shown, and what stands on the x axis."""
    switches = ""
    if len(runs) > 1:
        switches = "".join(
            f'<label><input type="checkbox" data-run="{i}" checked>{_tag(run, palette[i])}</label>'
            for i, run in enumerate(runs)
        )
    axis = ""
    if any(run.flops_per_image for run in runs):
        axis = (
            '<span class="axis"><label><input type="radio" name="x" value="images" checked>'
            'images</label><label><input type="radio" name="x" value="flops">training FLOPs'
            "</label></span>"
        )
    return f"<nav>{switches}{axis}</nav>" if switches or axis else ""


def _tag(run: RunData, colour: str) -> str:
    return f'<span class="tag"><i style="background:{colour}"></i>{escape(run.name)}</span>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, runs: Sequence[int] | str = ()
) -> str:
    """Returns a table of cells that are HTML already.

    `runs`: the run of every row, or "columns" where every column after the first is one: the page
    hides what belongs to a run with it.
    """

    def line(cells: Sequence[str], tag: str, kind: str = "") -> str:
        first, *rest = cells
        out = f"<tr{kind}><th>{first}</th>"
        for i, cell in enumerate(rest):
            owner = f' class="run-{i}"' if runs == "columns" else ""
            out += f"<{tag}{owner}>{cell}</{tag}>"
        return f"{out}</tr>"

    body = "".join(
        line(row, "td", f' class="run-{runs[i]}"' if runs and runs != "columns" else "")
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="wide"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _overview(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    rows = []
    for i, run in enumerate(runs):
        seen = max((line["images"] for line in run.lines), default=0)
        total = run.config.get("train.images", 0)
        spent = max((line.get("seconds", 0.0) for line in run.lines), default=0.0)
        each = run.flops_per_image
        devices = run.record.get("devices") or ["", ""]
        model = run.config.get("task.model.name", "")
        progress = f"{number(seen)}" if seen >= total else f"{number(seen)} of {number(total)}"
        rows.append([
            _tag(run, palette[i]),
            escape(" ".join(dict.fromkeys((str(run.config.get("task.name", "")), str(model))))),
            number(run.record.get("parameters")),
            progress,
            f"{each * seen:.3g}" if each else "",
            duration(spent),
            number(run.last("loss")),
            escape(f"{devices[1]} x {devices[0]}"),
            escape((run.record.get("revision") or "")[:8]),
        ])  # fmt: skip
    head = [
        *("run", "task and network", "parameters", "images", "FLOPs", "time"),
        *("newest loss", "devices", "revision"),
    ]
    return table(head, rows, runs=range(len(runs)))


def _differences(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    keys = sorted(set().union(*(run.config for run in runs)))
    common, others = [], []
    for key in keys:
        values = [run.config[key] for run in runs if key in run.config]
        if any(v != values[0] for v in values) or len(values) < len(runs):
            cells = (_value(run.config[key]) if key in run.config else "" for run in runs)
            row = [f"<code>{escape(key)}</code>", *cells]
            (common if len(values) == len(runs) else others).append(row)
    if not common and not others:
        return "<p>Nothing: these runs have one configuration.</p>"
    head = ["key", *_tags(runs, palette)]
    out = table(head, common, runs="columns") if common else ""
    if others:
        rest = table(head, others, runs="columns")
        out += f"<details><summary>keys that not all have ({len(others)})</summary>{rest}</details>"
    return out


def _tags(runs: Sequence[RunData], palette: Sequence[str]) -> list[str]:
    return [_tag(run, palette[i]) for i, run in enumerate(runs)]


def _value(value: Any) -> str:
    text = escape(number(value) if isinstance(value, float) else str(value))
    return f"<small>{text}</small>" if len(text) > 40 else text


def _charts(found: Sequence[tuple[str, str, str, str]]) -> str:
    cards = []
    for title, images, flops, note in found:
        over_flops = flops or "<p>No run says how many FLOPs it takes.</p>"
        below = f"<figcaption>{escape(note)}</figcaption>" if note else ""
        cards.append(
            f"<figure><h3>{escape(title)}</h3>"
            f'<div class="x-images">{images}</div><div class="x-flops">{over_flops}</div>'
            f"{below}</figure>"
        )
    return f'<div class="charts">{"".join(cards)}</div>'


def _metrics(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    """Returns a table a metric; values of different protocols are told apart by letters."""
    by_name: dict[str, list[tuple[int, Measured]]] = {}
    for i, run in enumerate(runs):
        for measured in _newest(run.measured):
            by_name.setdefault(measured.entry["name"], []).append((i, measured))
    return "".join(_metric(name, rows, runs, palette) for name, rows in sorted(by_name.items()))


def _newest(measured: Sequence[Measured]) -> list[Measured]:
    """Returns the evaluations but of those in training only the last ones; these make curves."""
    last = max((m.images for m in measured if m.images is not None), default=None)
    return [m for m in measured if m.images is None or m.images == last]


def _metric(
    name: str,
    rows: Sequence[tuple[int, Measured]],
    runs: Sequence[RunData],
    palette: Sequence[str],
) -> str:
    protocols = list(dict.fromkeys(m.entry["protocol"] for _, m in rows))
    letters = {p: chr(ord("A") + k % 26) for k, p in enumerate(protocols)}
    cells, owners, loud = [], [], []
    for i, m in rows:
        entry = m.entry
        error = entry["details"].get("standard_error")
        value = f"<b>{number(entry['value'])}</b>"
        value += f" &plusmn; {error:.2g}" if error is not None else ""
        scale = "<br>".join(
            f"{number(other['value'])} {escape(what)}" for what, other in entry["context"].items()
        )
        target = number(entry["target"])
        if entry["difference"] is not None:
            target += f" ({entry['difference']:+.4g})"
        elif entry["target_note"]:
            target = f"<small>{escape(entry['target_note'])}</small>"
        cells.append([
            _tag(runs[i], palette[i]), value, number(entry["n"]), target,
            f"<small>{scale}</small>", letters[entry["protocol"]], escape(m.file),
        ])  # fmt: skip
        owners.append(i)
        loud += [f"{runs[i].name}: {w}" for w in entry["warnings"]]
    head = ["run", "value", "N", "target", "for scale", "protocol", "file"]
    differ = ""
    if len(protocols) > 1:
        differ = '<p class="loud">Measured in different ways: compare only equal letters.</p>'
    told = "".join(f"<li><b>{letters[p]}</b> {escape(p)}</li>" for p in protocols)
    loud = "".join(f'<p class="loud">{escape(w)}</p>' for w in dict.fromkeys(loud))
    return (
        f"<h3>{escape(name)}</h3>{differ}{loud}{table(head, cells, runs=owners)}"
        f"<details><summary>protocol{'s' * (len(protocols) > 1)}</summary><ul>{told}</ul></details>"
    )


def _samples(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    out = []
    for i, run in enumerate(runs):
        kinds = sorted({g.weights for g in run.grids}, key=lambda w: w == "raw")
        for k, kind in enumerate(kinds):
            strip = "".join(_picture(g) for g in run.grids if g.weights == kind)
            head = f"{_tag(run, palette[i])} weights {escape(kind)}"
            body = f'<div class="strip">{strip}</div>'
            out.append(
                f'<div class="run-{i}"><h3>{head}</h3>{body}</div>'
                if k == 0
                else f'<details class="run-{i}"><summary>{head}</summary>{body}</details>'
            )
    return "".join(out)


def _picture(grid: Grid) -> str:
    kind, content, width, height = _small(grid.png)
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img loading="lazy" decoding="async" width="{width}" height="{height}" '
        f'alt="samples after {grid.images:,} images" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{grid.images:,} images</figcaption></figure>"
    )


def _small(png: bytes) -> tuple[str, bytes, int, int]:
    """Returns (format, bytes, width, height): large pictures are compressed, to look at only."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
        if len(png) <= _PNG_MOST:
            return "png", png, width, height
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=80)
    return "webp", buffer.getvalue(), width, height


def _samplers(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    prefix = "task.sampler."
    keys = sorted({k for run in runs for k in run.config if k.startswith(prefix)}, key=_sampler_key)
    rows = [
        [
            f"<code>{escape(key.removeprefix(prefix))}</code>",
            *(_value(run.config[key]) if key in run.config else "" for run in runs),
        ]
        for key in keys
    ]
    return table(["setting", *_tags(runs, palette)], rows, runs="columns") if rows else ""


def _sampler_key(key: str) -> tuple[bool, bool, str]:
    """Orders names and steps before what refines them."""
    return not key.endswith(".name"), not key.endswith(".steps"), key


def _configs(runs: Sequence[RunData], palette: Sequence[str]) -> str:
    out = []
    for i, run in enumerate(runs):
        text = "\n".join(f"{key} = {value!r}" for key, value in run.config.items())
        out.append(
            f'<details class="run-{i}"><summary>{_tag(run, palette[i])}</summary>'
            f"<pre>{escape(text)}</pre></details>"
        )
    return "".join(out)
