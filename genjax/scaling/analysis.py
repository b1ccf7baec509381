"""What a sweep's runs say together: the content of its sweep.json, and the same as text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genjax.scaling import isoflop, laws
from genjax.scaling.laws import Cost, FitSettings, Law


@dataclasses.dataclass(frozen=True)
class Point:
    """A run that is done: N, D, C as spent, the budget it belongs to (or None), L and its error.

    `error` is the standard error of L over the held-out samples (None: not known). Runs of a sweep
    share these samples with their noise and times, so that differences of L are surer than that.
    """

    name: str
    size: str
    params: int
    images: int
    flops: float
    budget: float | None
    loss: float
    error: float | None


def analyse(points: Sequence[Point], settings: FitSettings) -> dict[str, Any]:
    """Returns fits and optima as JSON: `points`, `cost`, `law`, `isoflop`, `optima`, `notes`.

    What too few runs are there for is None, and `notes` says why.
    """
    found: dict[str, Any] = {
        "points": [dataclasses.asdict(p) for p in points],
        "level": settings.level,
        "cost": None,
        "law": None,
        "isoflop": None,
        "optima": [],
        "notes": [],
    }
    n = np.array([p.params for p in points], float)
    d = np.array([p.images for p in points], float)
    loss = np.array([p.loss for p in points], float)
    if len(set(n)) < 2:
        found["notes"].append("no fits: they need runs of two sizes at least")
        return found
    price = laws.cost(n, [p.flops / p.images for p in points])
    found["cost"] = dataclasses.asdict(price)
    if price.misfit > 0.1:
        found["notes"].append(
            f"FLOPs of an image are no power of N (off by {price.misfit:.0%}): optima are rough"
        )
    law, draws = None, []
    if laws.enough(n.tolist(), d.tolist()):
        law = laws.fit(n, d, loss, settings.huber)
        draws = laws.bootstrap(law, n, d, loss, settings)
        found["law"] = _law(law, draws, price, settings, law(n, d), points)
        found["notes"] += _suspicions(law)
    else:
        found["notes"].append(
            f"no L(N, D): it needs {laws.FEWEST} runs with three different N and three D"
        )
    groups = _groups(points)
    iso = isoflop.fit(groups, price, settings)
    if groups:
        found["isoflop"] = _isoflop(iso, settings)
        found["notes"] += _edges(iso, groups)
    for c in sorted({*groups, *settings.budgets}):
        found["optima"].append(_optimum(c, law, draws, iso, price, settings.level))
    return found


def _groups(points: Sequence[Point]) -> dict[float, tuple[list[float], list[float]]]:
    groups: dict[float, tuple[list[float], list[float]]] = {}
    for p in points:
        if p.budget is not None:
            sizes, losses = groups.setdefault(p.budget, ([], []))
            sizes.append(p.params)
            losses.append(p.loss)
    return groups


def _law(law: Law, draws: list[Law], price: Cost, settings: FitSettings, expected, points) -> dict:
    residual = np.log([p.loss for p in points] / expected)
    spread = {
        key: laws.interval([getattr(draw, key) for draw in draws], settings.level)
        for key in dataclasses.asdict(law)
    }
    powers = [draw.exponents(price) for draw in draws]
    for i, key in enumerate(("N_power", "D_power")):
        spread[key] = laws.interval([p[i] for p in powers], settings.level)
    errors = [p.error / p.loss for p in points if p.error is not None]
    return {
        **dataclasses.asdict(law),
        **dict(zip(("N_power", "D_power"), law.exponents(price))),
        "intervals": spread,
        "residual": float(np.sqrt(np.mean(residual**2))),
        "largest_residual": float(np.abs(residual).max()),
        "measurement": float(np.mean(errors)) if errors else None,
    }


def _suspicions(law: Law) -> list[str]:
    low, high = laws.BOUNDS
    return [
        f"{key} of L(N, D) ends at the bound {value:g}: the runs do not tell it"
        for key, value in (("alpha", law.alpha), ("beta", law.beta))
        if not low * 1.01 < value < high * 0.99
    ]


def _isoflop(iso: isoflop.IsoFlopFit, settings: FitSettings) -> dict:
    powers = {}
    for key, line in (("N", iso.params), ("D", iso.images)):
        if line is not None:
            spread = laws.interval([p for _, p in line.draws], settings.level)
            powers[key] = {"scale": line.scale, "power": line.power, "interval": spread}
    return {
        "parabolas": [
            {
                **dataclasses.asdict(p),
                "found": p.found,
                "interval": iso.edges.get(p.budget),
            }
            for p in iso.parabolas
        ],
        "powers": powers,
    }


def _edges(iso: isoflop.IsoFlopFit, groups: Mapping[float, Any]) -> list[str]:
    notes = [
        f"budget {c:.3g}: no parabola, which needs {isoflop.FEWEST} runs"
        for c, (sizes, _) in sorted(groups.items())
        if len(sizes) < isoflop.FEWEST
    ]
    notes += [
        f"budget {p.budget:.3g}: no minimum within the sizes; add "
        + ("larger ones" if p(p.most) < p(p.least) else "smaller ones")
        for p in iso.parabolas
        if not p.found
    ]
    return notes


def _optimum(
    c: float,
    law: Law | None,
    draws: list[Law],
    iso: isoflop.IsoFlopFit,
    price: Cost,
    level: float,
) -> dict[str, Any]:
    """Returns the N, D and L that a budget is best spent on, by each fit that there is."""
    found: dict[str, Any] = {"flops": c}
    if law is not None:
        best, all_of = law.optimum(c, price), np.array([x.optimum(c, price) for x in draws])
        found["law"] = {
            key: {"value": value, "interval": laws.interval(all_of[:, i], level)}
            for i, (key, value) in enumerate(zip(("N", "D", "L"), best))
        }
    if iso.params is not None and iso.images is not None:
        found["isoflop"] = {
            key: {"value": line(c), "interval": line.interval(c, level)}
            for key, line in (("N", iso.params), ("D", iso.images))
        }
    return found


def describe(found: Mapping[str, Any]) -> list[str]:
    """Returns the fits of `analyse` as lines of text."""
    lines, percent = [], f"{100 * found['level']:g} %"
    law = found["law"]
    if law is not None:
        lines.append(
            f"L(N, D) = E + A/N^alpha + B/D^beta, {len(found['points'])} runs ({percent}):"
        )
        for key, (low, high) in law["intervals"].items():
            lines.append(f"  {key:8s} {law[key]:<10.4g} [{low:.4g}, {high:.4g}]")
        error = law["measurement"]
        told = f", of measuring L {error:.2%}" if error is not None else ""
        rms, most = law["residual"], law["largest_residual"]
        lines.append(f"  error of the fit {rms:.2%} (largest {most:.2%}){told}")
    for key, power in (found["isoflop"] or {}).get("powers", {}).items():
        low, high = power["interval"]
        lines.append(
            f"IsoFLOP: {key} = {power['scale']:.4g} C^{power['power']:.3f} [{low:.3f}, {high:.3f}]"
        )
    for row in found["optima"]:
        for name, fit in ((k, v) for k, v in row.items() if k != "flops"):
            values = ", ".join(
                f"{key} {number(part['value'])} [{number(part['interval'][0])}, "
                f"{number(part['interval'][1])}]"
                for key, part in fit.items()
            )
            lines.append(f"C = {row['flops']:.3g}, by {name}: {values}")
    return lines + [f"note: {text}" for text in found["notes"]]


def number(value: float) -> str:
    """Returns a number of any size in few characters."""
    return f"{value:,.0f}" if 1e3 <= value < 1e7 else f"{value:.4g}"
