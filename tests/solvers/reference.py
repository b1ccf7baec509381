"""The solvers as the literature prints them: plain loops in NumPy float64.

Nothing of genjax is used. A problem gives alpha(t), sigma(t), the time of a level and the denoiser;
x is [b, 1]; `z(i, k)` is the noise of step i, stage k. All return x at the end of `grid`.
"""

import math
from itertools import pairwise

import numpy as np


class VP:
    """beta from 0.1 to 20; data a mixture of two Gaussians."""

    weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.25, 0.4])

    def alpha(self, t):
        return np.exp(-0.25 * 19.9 * t**2 - 0.5 * 0.1 * t)

    def sigma(self, t):
        return np.sqrt(-np.expm1(-0.5 * 19.9 * t**2 - 0.1 * t))

    def half_logsnr(self, t):
        return np.log(self.alpha(t) / self.sigma(t))

    def time(self, half_logsnr):
        q = np.log1p(np.exp(-2 * half_logsnr))
        return 2 * q / (np.sqrt(0.1**2 + 2 * 19.9 * q) + 0.1)

    def rate(self, t):
        """g^2/(2 sigma), the weight of eps in dx/dt."""
        return (0.1 + 19.9 * t) / (2 * self.sigma(t))

    def x0(self, x, t):
        a, s = self.alpha(t), self.sigma(t)
        var = a**2 * self.stds**2 + s**2
        logits = np.log(self.weights) - 0.5 * np.log(var) - (x - a * self.means) ** 2 / (2 * var)
        w = np.exp(logits - logits.max(axis=-1, keepdims=True))
        w /= w.sum(axis=-1, keepdims=True)
        d = w * (self.means + a * self.stds**2 / var * (x - a * self.means))
        return d.sum(axis=-1, keepdims=True)

    def eps(self, x, t):
        return (x - self.alpha(t) * self.x0(x, t)) / self.sigma(t)


class Flow(VP):
    """alpha = 1 - t, sigma = t, the same data."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def half_logsnr(self, t):
        with np.errstate(divide="ignore"):
            return np.log((1 - t) / t)

    def time(self, half_logsnr):
        return 1 / (1 + np.exp(half_logsnr))


def ddim(p, x, s, t, e=None):
    """The first-order step in alpha_t x0 + sigma_t eps; e replaces eps of the model."""
    if e is None:
        d = p.x0(x, s)
        e = (x - p.alpha(s) * d) / p.sigma(s)
    else:
        d = (x - p.sigma(s) * e) / p.alpha(s)
    return p.alpha(t) * d + p.sigma(t) * e


def euler_ancestral(p, grid, x, z, eta):
    for i, (s, t) in enumerate(pairwise(grid)):
        level, level_next = p.sigma(s) / p.alpha(s), p.sigma(t) / p.alpha(t)
        up = min(level_next, eta * np.sqrt(level_next**2 * (level**2 - level_next**2) / level**2))
        down = np.sqrt(level_next**2 - up**2)
        y = x / p.alpha(s)
        y = y + (down - level) * (y - p.x0(x, s)) / level
        x = p.alpha(t) * (y + up * z(i))
    return x


def single(p, grid, x, orders):
    """DPM-Solver with eps; `orders`: of each step."""
    for (s, t), order in zip(pairwise(grid), orders):
        if order == 1:
            x = ddim(p, x, s, t)
            continue
        ls, lt = p.half_logsnr(s), p.half_logsnr(t)
        h, e = lt - ls, p.eps(x, s)
        a_s, a_t, s_t = p.alpha(s), p.alpha(t), p.sigma(t)
        if order == 2:
            r = 0.5
            s1 = p.time(ls + r * h)
            u = p.alpha(s1) / a_s * x - p.sigma(s1) * math.expm1(r * h) * e
            d = p.eps(u, s1) - e
            x = a_t / a_s * x - s_t * math.expm1(h) * e - s_t / (2 * r) * math.expm1(h) * d
        else:
            r1, r2 = 1 / 3, 2 / 3
            s1, s2 = p.time(ls + r1 * h), p.time(ls + r2 * h)
            u = p.alpha(s1) / a_s * x - p.sigma(s1) * math.expm1(r1 * h) * e
            d1 = p.eps(u, s1) - e
            u = p.alpha(s2) / a_s * x - p.sigma(s2) * math.expm1(r2 * h) * e
            u = u - p.sigma(s2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
            d2 = p.eps(u, s2) - e
            x = a_t / a_s * x - s_t * math.expm1(h) * e
            x = x - s_t / r2 * (math.expm1(h) / h - 1) * d2
    return x


def two_stage(p, grid, x, z, r, eta, inner_noise):
    """DPM-Solver++ 2S; eta > 0 ancestral; with noise at the inner stage too: SDE. Last order 1."""

    def split(s, t):
        level, level_next = p.sigma(s) / p.alpha(s), p.sigma(t) / p.alpha(t)
        up = eta * np.sqrt(level_next**2 * (1 - level_next**2 / level**2))
        return up, np.sqrt(level_next**2 - up**2)

    last = len(grid) - 2
    for i, (s, t) in enumerate(pairwise(grid)):
        level, d = p.sigma(s) / p.alpha(s), p.x0(x, s)
        up, down = split(s, t)
        y = x / p.alpha(s)
        if i == last:
            y = down / level * y + (1 - down / level) * d
            x = p.alpha(t) * (y + up * z(i, 0))
            continue
        target = p.sigma(t) / p.alpha(t) if inner_noise else down
        s1 = p.time(-np.log(level) + r * np.log(level / target))
        level1 = p.sigma(s1) / p.alpha(s1)
        up1, down1 = split(s, s1) if inner_noise else (0.0, level1)
        u = down1 / level * y + (1 - down1 / level) * d + up1 * z(i, 0)
        d = (1 - 1 / (2 * r)) * d + 1 / (2 * r) * p.x0(p.alpha(s1) * u, s1)
        y = down / level * y + (1 - down / level) * d
        x = p.alpha(t) * (y + up * z(i, 1))
    return x


def multistep(p, grid, x, z, *, order, form, flavour="midpoint", factor=2.0, eta=0.0, cut=False):
    """DPM-Solver ("eps") and DPM-Solver++ ("x0") multistep; factor 1: the released third order."""
    old = []
    n = len(grid) - 1
    for i, (s, t) in enumerate(pairwise(grid)):
        old = [(p.half_logsnr(s), p.x0(x, s) if form == "x0" else p.eps(x, s)), *old][:order]
        k = min(len(old), n - i) if cut else len(old)
        (ls, m0), lt = old[0], p.half_logsnr(t)
        if p.sigma(t) == 0:
            return p.x0(x, s)
        h = lt - ls
        if form == "x0":
            hh = (1 + eta) * h
            f1 = math.expm1(-hh)
            f2 = f1 / hh + 1
            f3 = f2 / hh - 0.5
            base = p.sigma(t) / p.sigma(s) * math.exp(-eta * h) * x - p.alpha(t) * f1 * m0
            g, g3 = p.alpha(t), -p.alpha(t)
        else:
            f1 = math.expm1(h)
            f2 = f1 / h - 1
            f3 = f2 / h - 0.5
            base = p.alpha(t) / p.alpha(s) * x - p.sigma(t) * f1 * m0
            g, g3 = -p.sigma(t), -p.sigma(t)
        if k >= 2:
            r0 = (ls - old[1][0]) / h
            d10 = (m0 - old[1][1]) / r0
        if k == 2:
            half = -0.5 * f1 if form == "x0" else 0.5 * f1
            base = base + g * (half if flavour == "midpoint" else f2) * d10
        if k == 3:
            r1 = (old[1][0] - old[2][0]) / h
            d11 = (old[1][1] - old[2][1]) / r1
            d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
            d2 = factor * (d10 - d11) / (r0 + r1)
            base = base + g * f2 * d1 + g3 * f3 * d2
        x = base + p.sigma(t) * np.sqrt(-math.expm1(-2 * eta * h)) * z(i)
    return x


def unipc(p, grid, x, *, order, bh, form, corrector=True, cut=False):
    n = len(grid) - 1
    old, m = [], None
    for i, (s, t) in enumerate(pairwise(grid)):
        if m is None:
            m = p.x0(x, s) if form == "x0" else p.eps(x, s)
        old = [(p.half_logsnr(s), m), *old][:order]
        k = min(len(old), n - i) if cut else len(old)
        if p.sigma(t) == 0:
            return old[0][1]
        (ls, m0), lt = old[0], p.half_logsnr(t)
        h = lt - ls
        hh = -h if form == "x0" else h
        b_h = hh if bh == "bh1" else math.expm1(hh)
        rs = [(lam - ls) / h for lam, _ in old[1:k]] + [1.0]
        ds = [(value - m0) / r for (_, value), r in zip(old[1:k], rs)]
        big = np.array([[r ** (q - 1) for r in rs] for q in range(1, k + 1)])
        b, g = [], math.expm1(hh) / hh - 1
        for q in range(1, k + 1):
            b.append(math.factorial(q) * g / b_h)
            g = g / hh - 1 / math.factorial(q + 1)
        if form == "x0":
            base = p.sigma(t) / p.sigma(s) * x - p.alpha(t) * math.expm1(hh) * m0
            scale = p.alpha(t) * b_h
        else:
            base = p.alpha(t) / p.alpha(s) * x - p.sigma(t) * math.expm1(hh) * m0
            scale = p.sigma(t) * b_h
        rho = [0.5] if k == 2 else list(np.linalg.solve(big[: k - 1, : k - 1], b[: k - 1]))
        guess = base - scale * sum(c * d for c, d in zip(rho, ds)) if k > 1 else base
        if i == n - 1 or not corrector:
            x, m = guess, None
            continue
        m = p.x0(guess, t) if form == "x0" else p.eps(guess, t)
        rho = [0.5] if k == 1 else list(np.linalg.solve(big, b))
        x = base - scale * (sum(c * d for c, d in zip(rho, ds)) + rho[-1] * (m - m0))
    return x


ADAMS = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12)}
ADAMS[4] = (55 / 24, -59 / 24, 37 / 24, -9 / 24)


def transfer(p, x, e, s, t):
    """PNDM's phi, without cancellation (variance preserving)."""
    abar_s, abar_t = p.alpha(s) ** 2, p.alpha(t) ** 2
    rs, rt = np.sqrt(abar_s), np.sqrt(abar_t)
    e_part = rs * (np.sqrt((1 - abar_t) * abar_s) + np.sqrt((1 - abar_s) * abar_t))
    return x + (abar_t - abar_s) * (x / (rs * (rs + rt)) - e / e_part)


def pndm(p, grid, x, *, most, starter=None, starts=0):
    """Adams-Bashforth of up to `most` values; the first `starts` steps by `starter`."""
    old = []
    for i, (s, t) in enumerate(pairwise(grid)):
        e1 = p.eps(x, s)
        old = [e1, *old][:most]
        if i < starts and starter == "rk4":
            m = (s + t) / 2
            e2 = p.eps(transfer(p, x, e1, s, m), m)
            e3 = p.eps(transfer(p, x, e2, s, m), m)
            e4 = p.eps(transfer(p, x, e3, s, t), t)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif i < starts:
            e = (e1 + p.eps(transfer(p, x, e1, s, t), t)) / 2
        else:
            e = sum(w * v for w, v in zip(ADAMS[len(old)], old))
        x = transfer(p, x, e, s, t)
    return x


def lagrange(nodes, j, at):
    out = 1.0
    for k, node in enumerate(nodes):
        if k != j:
            out = out * (at - node) / (nodes[j] - node)
    return out


def gauss(fn, a, b, panels=40):
    """The integral of fn from a to b."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(a, b, panels + 1)
    total = 0.0
    for lo, hi in pairwise(edges):
        half = (hi - lo) / 2
        total += half * sum(w * fn(lo + half * (v + 1)) for v, w in zip(nodes, weights))
    return total


def deis(p, grid, x, *, order):
    old = []
    for s, t in pairwise(grid):
        old = [(s, p.eps(x, s)), *old][:order]
        nodes = [at for at, _ in old]
        x = p.alpha(t) / p.alpha(s) * x
        for j, (_, e) in enumerate(old):

            def integrand(v, j=j, nodes=nodes, t=t):
                return p.alpha(t) / p.alpha(v) * p.rate(v) * lagrange(nodes, j, v)

            x = x + gauss(integrand, s, t) * e
    return x


def lms(p, grid, x, *, order):
    y, old = x / p.alpha(grid[0]), []
    for s, t in pairwise(grid):
        old = [(p.sigma(s) / p.alpha(s), p.eps(p.alpha(s) * y, s)), *old][:order]
        level_next = p.sigma(t) / p.alpha(t)
        nodes = [level for level, _ in old]
        for j, (_, e) in enumerate(old):

            def integrand(v, j=j, nodes=nodes):
                return lagrange(nodes, j, v)

            y = y + gauss(integrand, nodes[0], level_next, 1) * e
    return p.alpha(grid[-1]) * y


def heun_step(p, y, level, level_next, corrects=True):
    def slope(y, level):
        t = p.time(-np.log(level))
        return (y - p.x0(p.alpha(t) * y, t)) / level

    first = slope(y, level)
    guess = y + (level_next - level) * first
    if not corrects:
        return guess
    return y + (level_next - level) * (first + slope(guess, level_next)) / 2


def restart(p, grid, x, z, intervals, rho):
    """`intervals`: (lo, hi, steps, K) with falling lo, each between two levels of the grid."""
    levels = [p.sigma(t) / p.alpha(t) for t in grid]
    jumps = {}
    for lo, *rest in intervals:
        levels = sorted([*levels, lo], reverse=True)
        jumps[lo] = rest
    y, row = x / p.alpha(grid[0]), 0
    for i, (level, low) in enumerate(pairwise(levels)):
        y = heun_step(p, y, level, low, i < len(levels) - 2)
        row += 1
        hi, steps, repeats = jumps.get(low, (0, 0, 0))
        for _ in range(repeats):
            y = y + np.sqrt(hi**2 - low**2) * z(row)
            inner = [
                (hi ** (1 / rho) + k / steps * (low ** (1 / rho) - hi ** (1 / rho))) ** rho
                for k in range(steps + 1)
            ]
            for one, two in pairwise(inner):
                y = heun_step(p, y, one, two)
                row += 1
    return p.alpha(grid[-1]) * y
