"""The curves of `genjax report`: SVG by matplotlib, small, and with the lines of each run named.

The group of a run's lines has an id that begins with `runI-`, by which the page hides it.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

POINTS = 200  # of a line; more are not seen
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genjax",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4b2",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#e6e9ee",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#5b6673",
    "ytick.color": "#5b6673",
    "axes.labelcolor": "#5b6673",
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}
DASHES = ("-", "--", ":", "-.")  # of the kinds of weights, in the order of `kinds`


def colours(count: int) -> list[str]:
    """Returns `count` colours as #rrggbb, the first ten far apart."""
    from matplotlib import colormaps, colors

    palette = [*colormaps["tab10"].colors, *colormaps["tab20b"].colors]  # pyright: ignore
    return [colors.to_hex(palette[i % len(palette)]) for i in range(count)]


def chart(
    lines: Sequence[tuple[int, int, Sequence[float], Sequence[float]]],
    palette: Sequence[str],
    label: str,
) -> str:
    """Returns an SVG element of lines (run, kind of weights, x, y) over the axis `label`.

    The y axis is logarithmic where all values are positive and span a factor above 30.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=(4.3, 2.5), layout="constrained")
        axes = figure.add_subplot()
        values = np.concatenate([np.asarray(y, float) for *_, y in lines])
        if values.min() > 0 and values.max() > 30 * values.min():
            axes.set_yscale("log")
        for run, kind, x, y in lines:
            keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).astype(int))
            (line,) = axes.plot(
                np.asarray(x, float)[keep],
                np.asarray(y, float)[keep],
                color=palette[run],
                linestyle=DASHES[kind % len(DASHES)],
                marker="o" if len(keep) < 12 else "",
                markersize=3,
            )
            line.set_gid(f"run{run}-{kind}")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(label)
        axes.margins(x=0.02)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return slim(buffer.getvalue())


def slim(svg: str) -> str:
    """Returns the SVG element without what a page does not need: prologue, metadata, idle ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    svg = re.sub(r' id="(?!run\d|[mp][0-9a-f]{8,})[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    # A hundredth of a point is enough for what is drawn; texts between tags stay as they are.
    svg = re.sub(r'="[^"]*"', lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m[0]), svg)
    return re.sub(r"\n\s*", "\n", svg).strip()
