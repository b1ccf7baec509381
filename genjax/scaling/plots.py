"""Pictures of searches, drawn by matplotlib without a display."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any


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
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
