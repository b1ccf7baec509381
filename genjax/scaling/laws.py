"""L(N, D) = E + A / N^alpha + B / D^beta, fitted to runs (Hoffmann et al. 2022, approach 3).

arXiv 2203.15556, section 3.3 and appendix D.3: the Huber loss of log L - log-sum-exp(log A - alpha
log N, log B - beta log D, log E), minimised from many starts. Intervals are those of a bootstrap of
residuals: the design is fixed, and resampled runs would often lack a size.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from genjax.core.registry import option

_EXPONENTS = np.geomspace(0.05, 2.0, 10)  # where alpha and beta start
BOUNDS = (1e-3, 4.0)  # where they may end
_POLISHED = 3  # starts, the best of the grid, that are followed to the end
_ROUNDS = 200  # steps of a descent, at most
_TOLERANCE = 1e-6  # relative gain of a step below which a descent ends
FEWEST = 6  # runs: one more than the law has numbers


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How laws are fitted and what is asked of them."""

    huber: float = option(1e-3, "error of log L beyond which the loss grows linearly")
    window: float = option(
        0.0, "parabolas see the runs within this factor of the N of a budget's best run (0: all)"
    )
    resamples: int = option(200, "bootstrap samples")
    level: float = option(0.9, "probability of the intervals")
    seed: int = option(0, "seed of the bootstrap")
    budgets: tuple[float, ...] = option((), "further training FLOPs to tell the optimum of")

    def __post_init__(self):
        if self.huber <= 0 or self.resamples < 10 or not 0 < self.level < 1:
            raise ValueError("huber > 0, resamples >= 10 and 0 < level < 1")
        if self.window and self.window <= 1:
            raise ValueError("window: give a factor above 1, or 0 for all runs")
        if any(c <= 0 for c in self.budgets):
            raise ValueError("budgets: give positive numbers of FLOPs")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Training FLOPs of an image as a power of N, k N^g, fitted to the sizes of a sweep.

    `misfit`: the largest error of log(FLOPs) over the sizes.
    """

    k: float
    g: float
    misfit: float

    def images(self, flops, params):
        """Returns D for a budget and N."""
        return flops / (self.k * params**self.g)


def cost(params: ArrayLike, flops: ArrayLike) -> Cost:
    """Returns the cost of an image of sizes N with `flops` each; two different N are needed."""
    x, y = np.log(np.asarray(params, float)), np.log(np.asarray(flops, float))
    if np.ptp(x) == 0:
        raise ValueError("the cost of an image needs two different N")
    g, k = np.polyfit(x, y, 1)
    return Cost(float(np.exp(k)), float(g), float(np.abs(y - k - g * x).max()))


@dataclasses.dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def __call__(self, params, images):
        """Returns L, elementwise, float64."""
        n, d = np.asarray(params, float), np.asarray(images, float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimum(self, flops: float, cost: Cost) -> tuple[float, float, float]:
        """Returns (N, D, L) of least loss where k N^g D = `flops`.

        dL/dN = 0 gives N^(alpha + g beta) = alpha A / (g beta B) (flops / k)^beta.
        """
        power = self.alpha + cost.g * self.beta
        ratio = self.alpha * self.A / (cost.g * self.beta * self.B)
        n = (ratio * (flops / cost.k) ** self.beta) ** (1.0 / power)
        d = cost.images(flops, n)
        return float(n), float(d), float(self(n, d))

    def exponents(self, cost: Cost) -> tuple[float, float]:
        """Returns (p, q): the optimal N grows as C^p, the optimal D as C^q."""
        power = self.alpha + cost.g * self.beta
        return self.beta / power, self.alpha / power


def enough(params: Sequence[float], images: Sequence[float]) -> bool:
    """Says whether runs can tell a law: `FEWEST` of them, three different N and three D."""
    return len(params) >= FEWEST and min(len(set(params)), len(set(images))) >= 3


def fit(params, images, loss, huber: float = FitSettings.huber) -> Law:
    """Returns the law of runs N, D, L [n] (see `enough`); L must be positive."""
    x, y, target, centre = _normalised(params, images, loss)
    starts = _starts(x, y, target, huber)
    found, value = _descend(starts, x, y, target[None], huber)
    return _law(found[np.argmin(value)], centre)


def bootstrap(law: Law, params, images, loss, settings: FitSettings) -> list[Law]:
    """Returns laws refitted to `law` plus resampled residuals of log L.

    Residuals are centred, and scaled by sqrt(n / (n - 5)) for the five numbers that they paid for.
    Intervals of 90 % hold the truth in about 82 % of tries (docs/scaling.md).
    Each refit starts from the starts of the fit itself and keeps the best end.
    """
    rng = np.random.default_rng(settings.seed)
    x, y, target, centre = _normalised(params, images, loss)
    expected = np.log(law(params, images))
    residuals = resampled(target - expected, 5)
    drawn = expected + rng.choice(residuals, (settings.resamples, len(residuals)))
    starts = _starts(x, y, target, settings.huber)
    ends = [
        _descend(np.tile(start, (len(drawn), 1)), x, y, drawn, settings.huber) for start in starts
    ]
    best = np.argmin([value for _, value in ends], axis=0)
    return [_law(ends[k][0][i], centre) for i, k in enumerate(best)]


def resampled(residuals: np.ndarray, fitted: int) -> np.ndarray:
    """Returns residuals to draw from: centred, with the spread that `fitted` numbers took away."""
    n = len(residuals)
    return (residuals - residuals.mean()) * np.sqrt(n / max(n - fitted, 1))


def interval(values, level: float) -> tuple[float, float]:
    """Returns the central interval that holds a share `level` of the values."""
    low, high = np.quantile(np.asarray(values, float), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- the fit, in log N and log D about their means: (log A, alpha, log B, beta, log E) there -----


def _normalised(params, images, loss) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
    log_n, log_d = np.log(np.asarray(params, float)), np.log(np.asarray(images, float))
    centre = log_n.mean(), log_d.mean()
    return log_n - centre[0], log_d - centre[1], np.log(np.asarray(loss, float)), centre


def _law(theta: np.ndarray, centre) -> Law:
    a, alpha, b, beta, e = (float(v) for v in theta)
    return Law(
        float(np.exp(e)),
        float(np.exp(a + alpha * centre[0])),
        alpha,
        float(np.exp(b + beta * centre[1])),
        beta,
    )


def _starts(x: np.ndarray, y: np.ndarray, target: np.ndarray, huber: float) -> np.ndarray:
    """Returns the best `_POLISHED` of a start for each pair of exponents, [_POLISHED, 5].

    Given these, A, B and E follow by least squares of the relative error, none negative.
    """
    loss, least = np.exp(target), target.min() - 10.0  # log of what counts as nothing
    starts = []
    for alpha in _EXPONENTS:
        for beta in _EXPONENTS:
            columns = np.stack([np.exp(-alpha * x), np.exp(-beta * y), np.ones_like(x)], 1)
            scales, _ = optimize.nnls(columns / loss[:, None], np.ones_like(x))
            a, b, e = np.maximum(np.log(np.maximum(scales, 1e-300)), least)
            starts.append([a, alpha, b, beta, e])
    starts = np.array(starts)
    value = _huber(_terms(starts, x, y)[0] - target, huber)
    return starts[np.argsort(value, kind="stable")[:_POLISHED]]


def _terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns log L [k, n] of thetas [k, 5], and its derivatives [k, n, 5]."""
    a, alpha, b, beta, e = (theta[:, i, None] for i in range(5))
    parts = np.stack([a - alpha * x, b - beta * y, e + np.zeros_like(x)], -1)
    log_loss = np.logaddexp.reduce(parts, axis=-1)
    of_n, of_d, of_e = np.moveaxis(np.exp(parts - log_loss[..., None]), -1, 0)
    return log_loss, np.stack([of_n, -x * of_n, of_d, -y * of_d, of_e], -1)


def _huber(residuals: np.ndarray, huber: float) -> np.ndarray:
    """Returns the sum over the last axis of Huber losses over `huber`."""
    size = np.abs(residuals)
    return np.where(size <= huber, size**2 / (2 * huber), size - huber / 2).sum(-1)


def _descend(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, target: np.ndarray, huber: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (thetas [k, 5], objectives [k]) at minima, from k starts; targets [k or 1, n].

    Levenberg-Marquardt on reweighted squares, all problems at once: two hundred refits in the time
    that a general minimiser needs for one.
    """
    # log A, log B and log E have floors, where their term is nothing.
    low = np.array([target.min() - 20.0, BOUNDS[0]] * 2 + [target.min() - 20.0])
    high = np.array([target.max() + 20.0, BOUNDS[1]] * 2 + [target.max() + 20.0])
    damping = np.full(len(theta), 1e-3)
    theta = np.clip(theta, low, high)
    log_loss, slope = _terms(theta, x, y)
    value = _huber(log_loss - target, huber)
    for _ in range(_ROUNDS):
        residual = log_loss - target
        weighted = slope * np.minimum(1.0, huber / np.maximum(np.abs(residual), huber))[..., None]
        hessian = np.einsum("kni,knj->kij", weighted, slope)
        gradient = np.einsum("kni,kn->ki", weighted, residual)
        diagonal = np.einsum("kii->ki", hessian) + 1e-9
        damped = hessian + np.eye(5) * (damping[:, None] * diagonal + 1e-12)[:, None]
        step = np.linalg.solve(damped, -gradient[..., None])[..., 0]
        tried = np.clip(theta + step, low, high)
        tried_loss, tried_slope = _terms(tried, x, y)
        tried_value = _huber(tried_loss - target, huber)
        gain = value - tried_value
        better = gain > 0
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-10, 1e10)
        theta = np.where(better[:, None], tried, theta)
        log_loss = np.where(better[:, None], tried_loss, log_loss)
        slope = np.where(better[:, None, None], tried_slope, slope)
        value = np.where(better, tried_value, value)
        rests = (gain <= _TOLERANCE * value) & (better | (damping >= 1e4))
        if rests.all():
            break
    return theta, value
