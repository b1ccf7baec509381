"""Exponential integrators in the half log-SNR log(alpha/sigma): the coefficients of the DPM family.

With h the step in log(alpha/sigma), the solution of the probability-flow ODE is exactly
x' = (sigma'/sigma) x + alpha' H int_0^1 e^{-H (1-r)} D dr, H = h, or, with eps for D,
x' = (alpha'/alpha) x - sigma' h int_0^1 e^{h (1-r)} eps dr (Lu et al., arXiv 2206.00927 and
2211.01095). Solvers put a polynomial through past values in the integral. The SDEs with noise of
strength eta have H = (1 + eta) h and a factor e^{-eta h} on x.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from genjax.core.arrays import namespace
from genjax.process.gaussian import Process
from genjax.solvers.base import clip_positive, lam_ratio
from genjax.solvers.multistep import interpolatory, phi, stacked

# (z, number of values) -> what the integral makes of r^0, r^1, ... (at least that many)
Moments = Callable[[Any, int], Sequence[Any]]


def exact(z, count: int) -> list[Any]:
    """Returns int_0^1 e^{z (1-r)} r^q dr = q! phi_{q+1}(z) for q < `count`."""
    return [math.factorial(q) * value for q, value in enumerate(phi(z, count))]


def integrate(
    process: Process,
    times: Sequence[Any],
    t_next,
    *,
    kind: str,
    depth: int,
    moments: Moments = exact,
    eta: float = 0.0,
) -> dict[str, Any]:
    """Returns a, c [..., depth], and p, q (kind "eps") or s (eta > 0) of times[0] -> t_next.

    `times`: of the values, newest first. One time is the first-order step, finite also from
    alpha = 0 and to sigma = 0; more need a finite lam = sigma/alpha everywhere.
    """
    base = first_order(process, times[0], t_next, kind=kind, depth=depth, eta=eta)
    if len(times) == 1:
        return base
    xp = namespace(*times, t_next)
    lam = process.lam(times[0])
    h = xp.log(lam / process.lam(t_next))
    nodes = [0.0, *(xp.log(lam / process.lam(t)) / h for t in times[1:])]
    if kind == "eps":
        z, scale = h, -process.sigma(t_next) * h
    else:
        z = -(1 + eta) * h
        scale = -process.alpha(t_next) * z
    weights = interpolatory(nodes, moments(z, len(nodes)))
    return {**base, "c": stacked([scale * w for w in weights], depth, h)}


def first_order(
    process: Process, t, t_next, *, kind: str, depth: int, eta: float = 0.0
) -> dict[str, Any]:
    """Returns the same of the first-order step: DDIM's for eta = 0, in terms of D or eps."""
    xp = namespace(t, t_next)
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_next, sigma_next = process.alpha(t_next), process.sigma(t_next)
    a = sigma_next / sigma
    if kind == "eps":
        some = alpha > 0
        safe = xp.where(some, alpha, 1.0)
        ratio = alpha_next / safe
        return {
            "a": xp.where(some, ratio, a),
            "c": stacked([xp.where(some, sigma_next - ratio * sigma, alpha_next)], depth, a),
            "p": xp.where(some, 1 / sigma, 0.0),
            "q": xp.where(some, -alpha / sigma, 1.0),
        }
    if eta == 0:
        return {"a": a, "c": stacked([alpha_next - a * alpha], depth, a)}
    ratio = lam_ratio(process, t, t_next)  # e^{-h}
    return {
        "a": a * ratio**eta,
        "c": stacked([alpha_next * (1 - ratio ** (1 + eta))], depth, a),
        "s": sigma_next * xp.sqrt(clip_positive(1 - ratio ** (2 * eta))),
    }
