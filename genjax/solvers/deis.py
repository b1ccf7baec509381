"""DEIS, exponential integrators with polynomials in t (Zhang and Chen, arXiv 2204.13902)."""

import dataclasses
from typing import Any

import numpy as np

from genjax.core.arrays import namespace
from genjax.core.registry import option
from genjax.process.gaussian import Process
from genjax.process.table import Table
from genjax.solvers.dpm_multistep import check_order
from genjax.solvers.exponential import first_order, integrate
from genjax.solvers.multistep import Multistep, falling, interpolatory, stacked

_POINTS, _PANELS = 16, 8
_NODES, _WEIGHTS = (np.array(v) for v in np.polynomial.legendre.leggauss(_POINTS))


@dataclasses.dataclass(frozen=True)
class DEIS(Multistep):
    """Adams-Bashforth on eps: x' = (alpha'/alpha) x + alpha' int eps(lam) dlam, lam = sigma/alpha.

    The integral of the polynomial through the last `order` values of eps is taken in float64: a
    polynomial in t (the paper's tAB, whose name counts the degree, order - 1), or in log lam, as
    in diffusers' solver of this name; the latter is multistep DPM-Solver with exact slopes.
    Order 1 is DDIM. NFE n.
    """

    order: int = option(3, "values of eps used, 1 to 4 (the paper's tAB2 is order 3)")
    polynomial: str = option("t", 'variable of the polynomial: "t" or "log_lam"')
    lower_order_final: bool = option(False, "order 3, 2, 1 over the last steps")

    def __post_init__(self):
        check_order(self.order, 4)
        if self.polynomial not in ("t", "log_lam"):
            raise ValueError(f'polynomial must be "t" or "log_lam", got {self.polynomial!r}')

    @property
    def kind(self) -> str:
        return "eps"

    @property
    def depth(self) -> int:
        return self.order

    def weights(self, times, t_next):
        process, depth = self.process, self.depth
        if self.polynomial == "log_lam":
            return integrate(process, times, t_next, kind="eps", depth=depth)
        base = first_order(process, times[0], t_next, kind="eps", depth=depth)
        if len(times) == 1:
            return base
        h = t_next - times[0]
        nodes = [0.0, *((t - times[0]) / h for t in times[1:])]
        weights = interpolatory(nodes, moments(process, times[0], t_next, len(nodes)))
        alpha = process.alpha(t_next)
        return {**base, "c": stacked([alpha * w for w in weights], depth, h)}

    def orders(self, grid: np.ndarray) -> np.ndarray:
        order = super().orders(grid)
        if self.polynomial == "log_lam":
            order[self.process.sigma(grid[1:]) == 0] = 1
        return falling(order) if self.lower_order_final else order


def moments(process: Process, t, t_next, count: int) -> list[Any]:
    """Returns int w^q dlam over the step t -> t_next, w = 0 .. 1 the share of it done; q < count.

    By parts, [w^q lam] - q int w^(q-1) lam dw, with Gauss-Legendre for the integral: in panels, on
    a table between its entries, where lam has kinks. Traced times take the panels alone.
    """
    if isinstance(process, Table) and namespace(t, t_next) is np:
        steps = zip(np.ravel(t), np.ravel(t_next))
        rows = [_by_parts(process, a, b, _entries(a, b), count) for a, b in steps]
        return list(np.array(rows).reshape(-1, count).T)
    return _by_parts(process, t, t_next, np.linspace(0, 1, _PANELS + 1), count)


def _entries(t: float, t_next: float) -> np.ndarray:
    """Returns the places 0 .. 1 of a table's entries in the step, its ends included."""
    inner = np.arange(np.ceil(t) - 1, t_next, -1.0)
    return (np.concatenate([[t], inner, [t_next]]) - t) / (t_next - t)


def _by_parts(process: Process, t, t_next, edges: np.ndarray, count: int) -> list[Any]:
    xp = namespace(t, t_next)
    half = np.diff(edges)[:, None] / 2
    w = (edges[:-1, None] + half * (_NODES + 1)).ravel()
    weight = (half * _WEIGHTS).ravel()
    t, t_next = xp.asarray(t), xp.asarray(t_next)
    lam = process.lam(t[..., None] + w * (t_next - t)[..., None])
    end = process.lam(t_next)
    integrals = [q * xp.sum(weight * w ** (q - 1) * lam, axis=-1) for q in range(1, count)]
    return [end - process.lam(t), *(end - integral for integral in integrals)]
