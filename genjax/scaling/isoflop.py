"""IsoFLOP parabolas and the power laws of their minima (Hoffmann et al. 2022, approach 2).

At each budget C the loss is a parabola in log N; its vertex is the N to spend C on. Across budgets
N = n C^p and, by what an image costs, D = C / (k N^g).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from genjax.scaling.laws import Cost, FitSettings, interval, resampled

FEWEST = 4  # runs of a budget: a parabola through three leaves no residual


@dataclasses.dataclass(frozen=True)
class Parabola:
    """L = loss + curvature (log N - log params)^2 of one budget, for N in [least, most].

    `found`: whether it has a minimum, and within the sizes that were run.
    """

    budget: float
    params: float
    loss: float
    curvature: float
    least: float
    most: float

    @property
    def found(self) -> bool:
        return self.curvature > 0 and self.least <= self.params <= self.most

    def __call__(self, params):
        """Returns L, elementwise."""
        shift = np.log(np.asarray(params, float) / self.params)
        return self.loss + self.curvature * shift**2


def parabola(budget: float, params: ArrayLike, loss: ArrayLike) -> Parabola:
    """Returns the parabola of runs of a budget, by least squares in log N."""
    log_n = np.log(np.asarray(params, float))
    centre = log_n.mean()
    c2, c1, c0 = (float(c) for c in np.polyfit(log_n - centre, np.asarray(loss, float), 2))
    # A straight line has its vertex at infinity: far away is as good.
    vertex = float(np.clip(-c1 / (2 * c2), -50, 50)) if c2 else 50.0
    least = c0 + c1 * vertex + c2 * vertex**2
    ends = float(np.min(params)), float(np.max(params))
    return Parabola(budget, float(np.exp(centre + vertex)), least, c2, *ends)


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = scale C^power; `draws` are those of the bootstrap."""

    scale: float
    power: float
    draws: tuple[tuple[float, float], ...] = ()

    def __call__(self, flops: float) -> float:
        return self.scale * flops**self.power

    def interval(self, flops: float, level: float) -> tuple[float, float]:
        """Returns the interval of y at a budget."""
        return interval([a * flops**p for a, p in self.draws], level)


@dataclasses.dataclass(frozen=True)
class IsoFlopFit:
    """The parabolas by budget, and what N and D follow; None where fewer than two have a minimum.

    `edges`: the intervals of the minima (N) of budgets that have one.
    """

    parabolas: tuple[Parabola, ...]
    params: PowerLaw | None
    images: PowerLaw | None
    edges: Mapping[float, tuple[float, float]]


def fit(
    groups: Mapping[float, tuple[Sequence[float], Sequence[float]]],
    cost: Cost,
    settings: FitSettings,
) -> IsoFlopFit:
    """Returns the fit of budget -> (N, L) of its runs; budgets of fewer than `FEWEST` are left out.

    Intervals: residuals of all parabolas are pooled, with sqrt(n / (n - 3 budgets)), and drawn
    anew; a minimum that a draw puts beyond the sizes counts as at their end.
    """
    seen = {c: _near(*group, settings.window) for c, group in sorted(groups.items())}
    runs = {c: group for c, group in seen.items() if len(group[0]) >= FEWEST}
    parabolas = tuple(parabola(c, *group) for c, group in runs.items())
    used = [p for p in parabolas if p.found]
    if not used:
        return IsoFlopFit(parabolas, None, None, {})
    fitted = [p(runs[p.budget][0]) for p in parabolas]
    errors = [np.log(runs[p.budget][1] / f) for p, f in zip(parabolas, fitted)]
    residuals = resampled(np.concatenate(errors), 3 * len(parabolas))
    rng = np.random.default_rng(settings.seed)
    draws = []
    for _ in range(settings.resamples):
        drawn = []
        for p, expected in zip(parabolas, fitted):
            loss = expected * np.exp(rng.choice(residuals, len(expected)))
            if p.found:
                drawn.append(_within(parabola(p.budget, runs[p.budget][0], loss)))
        draws.append(drawn)
    budgets = np.array([p.budget for p in used])
    edges = {
        float(c): interval([d[i] for d in draws], settings.level) for i, c in enumerate(budgets)
    }
    if len(used) < 2:
        return IsoFlopFit(parabolas, None, None, edges)
    scale, power = _line(budgets, [p.params for p in used])
    pairs = tuple(_line(budgets, drawn) for drawn in draws)
    images = tuple(_images(*pair, cost) for pair in pairs)
    return IsoFlopFit(
        parabolas,
        PowerLaw(scale, power, pairs),
        PowerLaw(*_images(scale, power, cost), images),
        edges,
    )


def _near(params: ArrayLike, loss: ArrayLike, window: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the runs whose N lies within the factor `window` (0: any) of that of the best."""
    n, values = np.asarray(params, float), np.asarray(loss, float)
    near = np.abs(np.log(n / n[np.argmin(values)])) <= np.log(window or np.inf)
    return n[near], values[near]


def _line(budgets: np.ndarray, params: Sequence[float]) -> tuple[float, float]:
    power, scale = np.polyfit(np.log(budgets), np.log(params), 1)
    return float(np.exp(scale)), float(power)


def _images(scale: float, power: float, cost: Cost) -> tuple[float, float]:
    """Returns the power law of D = C / (k N^g) for N = scale C^power."""
    return 1.0 / (cost.k * scale**cost.g), 1.0 - cost.g * power


def _within(p: Parabola) -> float:
    """Returns the N of least loss within the sizes."""
    if p.curvature > 0:
        return float(np.clip(p.params, p.least, p.most))
    return p.least if p(p.least) <= p(p.most) else p.most
