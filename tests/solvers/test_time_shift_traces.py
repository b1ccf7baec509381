"""Time-Shift, image by image in NumPy from the printed rules, against the compiled samplers.

Times are indices of the table (-1: the data), data N(0, 0.25) with the exact noise estimate.
"""

import itertools

import numpy as np
import pytest

from genjax.process import PROCESSES
from tests.solvers.test_time_shift import BAR, TABLE, draw, solved

B, D, WINDOW, CUTOFF = 4, 48, 60, 350
LEVEL = np.append(BAR, 1.0)  # index -1 is the data
NODES = [900, 700, 500, 300, 100, -1]
COSINE = PROCESSES.build({"name": "table", "betas": "cosine", "n": 1000})


def noise_of(x, level):
    x0 = np.sqrt(level) * 0.25 * x / (level * 0.25 + 1 - level)
    return (x - np.sqrt(level) * x0) / np.sqrt(1 - level)


def transfer(x, e, level, end):
    """DDIM in its textbook form."""
    x0 = (x - np.sqrt(1 - level) * e) / np.sqrt(level)
    return np.sqrt(end) * x0 + np.sqrt(1 - end) * e


def look(v, centre, half=WINDOW // 2, table=1 - BAR):
    window = np.clip(np.arange(centre - half, centre + half + 1), 0, 999)
    return window[np.argmin(np.abs(v - table[window]))]


def told(mode, i, x):
    """Returns (time of the start, time of the end) of step i for the image x where it starts."""
    t, after, v = NODES[i], NODES[i + 1], x.var(ddof=1)
    if mode == "paper" and i and NODES[i - 1] > CUTOFF:
        t = look(v, t)
    if mode == "ts_dpm" and i and after > CUTOFF:
        after = look(v, after)
    return t, after


def ddim(mode, x):
    for i in range(5):
        t, after = told(mode, i, x)
        x = transfer(x, noise_of(x, LEVEL[t]), LEVEL[t], LEVEL[after])
        yield x, t, after


def f_pndm(mode, x):
    past = []
    for i in range(5):
        t, after = told(mode, i, x)
        e = noise_of(x, LEVEL[t])
        past = [e, *past]
        if i < 3:  # pseudo Runge-Kutta: evaluated at the middle, levels looked up
            middle = (t + after) / 2
            level = float(TABLE.alpha(middle + 1)) ** 2  # of the evaluation
            looked_up = LEVEL[int(middle)] if mode == "ts_dpm" else level
            # A noise estimate at a time between entries is that of the interpolated level.
            e2 = noise_of(transfer(x, e, LEVEL[t], looked_up), level)
            e3 = noise_of(transfer(x, e2, LEVEL[t], looked_up), level)
            e4 = noise_of(transfer(x, e3, LEVEL[t], LEVEL[after]), LEVEL[after])
            mixed = (e + 2 * e2 + 2 * e3 + e4) / 6
        else:
            mixed = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        x = transfer(x, mixed, LEVEL[t], LEVEL[after])
        yield x, t, after


def s_pndm(mode, x):
    past = []
    for i in range(5):
        t, after = told(mode, i, x)
        e = noise_of(x, LEVEL[t])
        past = [e, *past]
        if i:
            mixed = (3 * past[0] - past[1]) / 2
        else:
            end = transfer(x, e, LEVEL[t], LEVEL[after])
            mixed = (e + noise_of(end, LEVEL[after])) / 2
        x = transfer(x, mixed, LEVEL[t], LEVEL[after])
        yield x, t, after


def half_snr(t):
    return 0.5 * np.log(LEVEL[t] / (1 - LEVEL[t]))


def second_order(x, past, after):
    """DPM-Solver-2 multistep (midpoint); `past`: (time, noise) pairs, newest first."""
    (t, e), *rest = past
    if after == -1 or not rest:
        return transfer(x, e, LEVEL[t], LEVEL[after])
    h = half_snr(after) - half_snr(t)
    r = (half_snr(t) - half_snr(rest[0][0])) / h
    sigma, growth = np.sqrt(1 - LEVEL[after]), np.expm1(h)
    return (
        np.sqrt(LEVEL[after] / LEVEL[t]) * x
        - sigma * growth * e
        - 0.5 * sigma * growth * (e - rest[0][1]) / r
    )


def dpm_2(mode, x):
    past, t = [], NODES[0]
    for i in range(5):
        if mode == "paper":
            t, after = told(mode, i, x)
            past = [(t, noise_of(x, LEVEL[t])), *past[:1]]
        else:  # released: the newest noise estimate chooses the end, which is the next time
            past = [(t, noise_of(x, LEVEL[t])), *past[:1]]
            after = NODES[i + 1]
            if i and after > CUTOFF:
                after = look(past[0][1].var(ddof=1), after)
        x = second_order(x, past, after)
        yield x, t, after
        t = after


def deis_2(mode, x):
    """Order 2 in t: the integrals of the line through two values, by the trapezium rule."""
    past = []
    for i in range(5):
        t, after = told(mode, i, x)
        seen = t
        if mode == "ts_dpm":  # released: a whole window to each side, and for the network alone
            t, after = NODES[i], NODES[i + 1]
            seen = look(x.var(ddof=1), t, WINDOW) if t > CUTOFF else t
        past = [(t, noise_of(x, LEVEL[seen])), *past[:1]]
        if len(past) == 1:
            x = transfer(x, past[0][1], LEVEL[t], LEVEL[after])
        else:
            fine = np.linspace(t, after, 400001)
            lam = TABLE.lam(fine + 1)
            line = (fine - t) / (past[1][0] - t)  # 1 at the older time, 0 at the newer
            older = np.sum((line[1:] + line[:-1]) / 2 * np.diff(lam))
            newer = lam[-1] - lam[0] - older
            step = newer * past[0][1] + older * past[1][1]
            x = np.sqrt(LEVEL[after]) * (x / np.sqrt(LEVEL[t]) + step)
        yield x, seen, after


TRACES = {
    "ddim": (ddim, "ddim", {}),
    "f-pndm": (f_pndm, "pndm", {"form": "f"}),
    "s-pndm": (s_pndm, "pndm", {"form": "s"}),
    "dpm-solver-2": (dpm_2, "dpm_solver_multistep", {"order": 2, "lower_order_final": False}),
    "deis-2": (deis_2, "deis", {"order": 2}),
}


@pytest.mark.parametrize("mode", ["paper", "ts_dpm"])
@pytest.mark.parametrize("name", list(TRACES))
def test_a_trace_by_hand(name, mode):
    trace, solver, fields = TRACES[name]
    shift = {"name": "time_shift", "window": WINDOW, "cutoff": CUTOFF, "mode": mode}
    found, times, _ = solved(
        shift, solver, b=B, d=D, times=np.array(NODES, np.float64) + 1, **fields
    )
    shifted = 0
    for i in range(B):
        x = np.asarray(draw(B, 1.0, 7, D), np.float64)[i]
        steps = list(trace(mode, x))
        kept = [t if mode == "paper" or name == "deis-2" else after for _, t, after in steps]
        np.testing.assert_array_equal(np.asarray(times[i]) - 1, kept)
        np.testing.assert_allclose(found[i].ravel(), steps[-1][0], rtol=2e-4, atol=5e-5)
        shifted += sum(t not in NODES for t in kept)
    assert shifted >= B  # otherwise nothing was tested


def test_a_trace_of_the_adm_rule_by_hand():
    """The cosine table: variances against abar backwards, ends 1000 // 4 + 1 below the choice."""
    level = np.append(COSINE.nodes.abar[1:], 1.0)
    nodes = [900, 700, 500, 300, 100, -1]
    shift = {"name": "time_shift", "window": 40, "cutoff": 250, "mode": "ts_adm"}
    found, times, _ = solved(shift, b=B, d=D, times=np.array(nodes, np.float64) + 1, process=COSINE)
    for i in range(B):
        x = np.asarray(draw(B, 1.0, 7, D), np.float64)[i]
        for number, (t, after) in enumerate(itertools.pairwise(nodes)):
            chosen = t
            if number and t > 250:
                chosen = look(x.var(ddof=1), t, 20, level[999 - np.arange(1000)])
                after = chosen - 1000 // 4 - 1
            assert times[i, number] - 1 == chosen
            x = transfer(x, noise_of(x, level[t]), level[t], level[after])
        np.testing.assert_allclose(found[i].ravel(), x, rtol=2e-4, atol=2e-5)
