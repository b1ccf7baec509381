"""Pictures of searches and sweeps, drawn by matplotlib without a display."""

import dataclasses
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from genjax.scaling.laws import Law


def convergence(
    values: Sequence[float], rounds: Sequence[int], lines: Mapping[str, float], title: str
) -> bytes:
    """Returns a PNG: every candidate's value in order, the best so far, and named constants.

    `rounds`: how many candidates had been evaluated at the end of each round.
    """
    import numpy as np

    figure, axes = _figure()
    number = np.arange(1, len(values) + 1)
    axes.plot(number, values, ".", color="0.7", markersize=4, label="candidates")
    best = np.minimum.accumulate(np.where(np.isfinite(values), values, np.inf))
    axes.plot(number, best, color="C0", label="best so far")
    for end in rounds[:-1]:
        axes.axvline(end + 0.5, color="0.9", linewidth=0.8, zorder=0)
    for i, (name, value) in enumerate(lines.items()):
        axes.axhline(value, color=f"C{i + 1}", linestyle="--", linewidth=1, label=name)
    axes.set(xlabel="candidates evaluated", ylabel=title)
    if min(values) > 0:
        axes.set_yscale("log")
    return _png(figure, axes)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = True,
) -> bytes:
    """Returns a PNG of lines by name, (x, y) each; `log`: both axes logarithmic."""
    figure, axes = _figure()
    for i, (name, (x, y)) in enumerate(series.items()):
        axes.plot(x, y, marker="osv^D"[i // 10 % 5], markersize=4, linewidth=1.2, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    return _png(figure, axes)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Any, axes: Any) -> bytes:
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_lines()) > 10:  # too many to lie among the lines
        figure.set_size_inches(10, 5.6)
        figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    else:
        axes.legend(frameon=False, fontsize=8)
    return _saved(figure, "png")


def _saved(figure: Any, kind: str) -> bytes:
    out = BytesIO()
    figure.savefig(out, format=kind)
    return out.getvalue()


def laws(found: Mapping[str, Any], kind: str = "png") -> bytes:
    """Returns a picture of `analysis.analyse`'s result as a `kind` of "png" or "svg".

    Loss over N by budget with the parabolas and the law; optimal N and D over C; law over measured.
    """
    import numpy as np
    from matplotlib.figure import Figure

    law = None
    if found["law"] is not None:
        law = Law(*(found["law"][f.name] for f in dataclasses.fields(Law)))
    figure = Figure(figsize=(12.6, 4.0), dpi=120, layout="constrained")
    sizes, best, fits = figure.subplots(1, 3)
    _loss_over_size(sizes, found, law)
    for mark, (key, name) in zip("os", (("N", "parameters N"), ("D", "images D"))):
        for dashes, fit in (("-", "law"), ("--", "isoflop")):
            rows = [row for row in found["optima"] if fit in row]
            if rows:
                c = [row["flops"] for row in rows]
                low, high = np.transpose([row[fit][key]["interval"] for row in rows])
                colour = "C0" if key == "N" else "C1"
                y = [row[fit][key]["value"] for row in rows]
                label = f"{name}, {'L(N, D)' if fit == 'law' else 'parabolas'}"
                best.plot(c, y, dashes, marker=mark, markersize=4, color=colour, label=label)
                best.fill_between(c, low, high, color=colour, alpha=0.12, linewidth=0)
    best.set(xlabel="training FLOPs C", ylabel="compute-optimal", xscale="log", yscale="log")
    if law is not None:
        points = found["points"]
        measured = np.array([p["loss"] for p in points])
        told = law([p["params"] for p in points], [p["images"] for p in points])
        error = [p["error"] or 0.0 for p in points]
        fits.errorbar(measured, told, xerr=error, fmt=".", color="C0", label="runs")
        ends = [measured.min(), measured.max()]
        fits.plot(ends, ends, color="0.6", linewidth=1, label="equal")
        fits.set(xlabel="measured L", ylabel="L(N, D)")
    for axes in (sizes, best, fits):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=7)
    return _saved(figure, kind)


def _loss_over_size(axes: Any, found: Mapping[str, Any], law: Law | None) -> None:
    """Draws a colour a budget, or a number of images where the design has no budgets."""
    import numpy as np

    points = found["points"]
    by_budget = any(p["budget"] is not None for p in points)
    groups = sorted({p["budget"] if by_budget else p["images"] for p in points})
    parabolas = {p["budget"]: p for p in (found["isoflop"] or {}).get("parabolas", [])}
    for i, group in enumerate(groups):
        mine = [p for p in points if group == (p["budget"] if by_budget else p["images"])]
        mine.sort(key=lambda p: p["params"])
        n, colour = np.array([p["params"] for p in mine], float), f"C{i % 10}"
        error = [p["error"] or 0.0 for p in mine]
        label = f"C = {group:.3g}" if by_budget else f"D = {group:,}"
        axes.errorbar(
            n, [p["loss"] for p in mine], error, fmt="o", color=colour, markersize=4, label=label
        )
        line = np.geomspace(n.min(), n.max(), 50)
        if law is not None and len(n) > 1:
            d = group
            if by_budget:
                d = group / (found["cost"]["k"] * line ** found["cost"]["g"])
            axes.plot(line, law(line, d), color=colour, linewidth=1)
        if group in parabolas:
            p = parabolas[group]
            y = p["loss"] + p["curvature"] * np.log(line / p["params"]) ** 2
            axes.plot(line, y, "--", color=colour, linewidth=1)
            if p["found"]:
                axes.plot(p["params"], p["loss"], "*", color=colour, markersize=9)
    axes.set(xlabel="parameters N", ylabel="held-out loss L", xscale="log")
    axes.set_title("solid: L(N, D); dashed: parabolas", fontsize=8)
