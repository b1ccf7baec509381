"""Time-Shift sampling (Li et al., arXiv 2305.15583), and scaled noise, against exposure bias.

At each step the pixel variance of a sample is compared with 1 - abar of the times in a window, and
the best match takes the nominal time's place. `rows` puts the window's places into the rows of a
solver, and `apply` what uses them around it: window and cutoff are numbers of the rows.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import bcast
from genjax.core.errors import UserError
from genjax.core.registry import Registry, option, required
from genjax.process.gaussian import Process
from genjax.process.table import Table
from genjax.solvers.ancestral import DDPM
from genjax.solvers.base import Predict, Solver
from genjax.solvers.ddim import DDIM
from genjax.solvers.deis import DEIS
from genjax.solvers.dpm_multistep import DPMSolverMultistep
from genjax.solvers.multistep import Multistep
from genjax.solvers.pndm import AdamsBashforth
from genjax.solvers.shifted import UNSET, Renormalised, Shifted, ShiftedEnds, ShiftedMultistep

_ENTRIES = 1000  # times of a process without a table
_KINDS = {
    "ts_dpm": (DDIM, DDPM, AdamsBashforth, DPMSolverMultistep, DEIS),
    "ts_adm": (DDIM,),
}


@dataclasses.dataclass(frozen=True)
class NoShift:
    """Nothing."""

    def rows(self, solver: Solver, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows unchanged."""
        del solver
        return dict(rows)

    def apply(self, solver: Solver, predict: Predict, steps: int) -> tuple[Any, Predict]:
        """Returns both unchanged."""
        del steps
        return solver, predict


@dataclasses.dataclass(frozen=True)
class TimeShift:
    """The time of each sample is that of a window whose noise its pixels show.

    Times are counted 0 .. N-1 as a table of betas does (a process without a table: N = 1000). Three
    algorithms bear the name; the effects of the first two have opposite signs.

    "paper" (algorithm 3), for every solver of one evaluation a step and PNDM: from the second step
    on, the network is told the chosen time and the step starts from it. It is chosen by the x where
    the step before ended, around that step's nominal end, if the step before started
    (`cutoff_on` = "current", as printed) or ended ("next") above `cutoff`.

    "ts_dpm", the code released for DDIM, DDPM and PNDM: the network is told the nominal time, the
    level where a step ends is chosen, around its nominal one, by the x where it starts; never in
    the first step, and where the nominal end is above `cutoff`. Inner points of PNDM's starters
    lie at whole times. For "dpm_solver_multistep" the variance is that of the newest noise
    estimate, and the chosen end is also the time of the next evaluation. For "deis" the window is
    `window` to each side, the first step shifts too, and the network alone is told the chosen time.

    "ts_adm", the code released for ADM, DDIM only: variances are compared with abar in reverse,
    which is 1 - abar for no schedule and close to it for the cosine, and the step ends at the
    chosen time less 1000 // (n - 1) + 1 for n steps, also with `window` 0.

    No default of `window` and `cutoff` serves all step counts; a wrong cutoff is worse than none.
    """

    window: int = required("width of the window in times of the table, half to each side")
    cutoff: float = required("times shift above this time only, counted 0 .. N-1")
    mode: str = option("paper", "paper, ts_dpm or ts_adm")
    cutoff_on: str = option("current", 'paper: which time is compared: "current" or "next"')
    window_center: str = option(
        "state", 'paper: "state", the time where x lies, or "literal", the last step\'s (stride 1)'
    )
    variance_target: str = option(
        "paper", 'variance expected at a time: "paper" (1 - abar) or "marginal" (+ abar v0)'
    )
    v0: float = option(0.0, 'mean pixel variance of the data, for "marginal"')
    widest: int = option(0, "widest window of a search, which compiles once for all (0: window)")

    def __post_init__(self):
        if self.window < 0 or self.cutoff < 0 or self.v0 < 0:
            raise ValueError("window, cutoff and v0 must not be negative")
        for key, legal in (
            ("mode", ("paper", "ts_dpm", "ts_adm")),
            ("cutoff_on", ("current", "next")),
            ("window_center", ("state", "literal")),
            ("variance_target", ("paper", "marginal")),
        ):
            if getattr(self, key) not in legal:
                raise ValueError(f"{key}: {getattr(self, key)!r} is none of {', '.join(legal)}")
        for key, plain in (
            ("cutoff_on", "current"),
            ("window_center", "state"),
            ("variance_target", "paper"),
        ):
            if self.mode != "paper" and getattr(self, key) != plain:
                raise ValueError(f'{key}: mode "{self.mode}" is released code, which has no such')
        if (self.variance_target == "marginal") != (self.v0 > 0):
            raise ValueError('v0: give it for variance_target = "marginal", and only then')
        if self.v0 == 1:
            raise ValueError("v0: at 1 the variance is the same at all times and tells none")
        if self.widest and self.widest < self.window:
            raise ValueError(f"widest: {self.widest} is less than window = {self.window}")

    def rows(self, solver: Solver, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows (host) of the bound `solver` with the window's places, under "shift".

        Leaves have the shape [n, K, ...] with K the places of the widest window. Raises `UserError`
        for a process or solver without a meaning for `mode`.
        """
        self.check(solver)
        unit, count = units(solver.process)
        t, t_next = (np.asarray(rows[k], np.float64) for k in ("t", "t_next"))
        may, nominal, centre = self._plan(solver, t, t_next, unit)
        reach, most = (self._half(solver, w) for w in (self.window, max(self.window, self.widest)))
        offsets = np.arange(-most, most + 1)
        time = np.clip(centre[:, None] + unit * offsets, unit, count * unit)
        time[:, most] = centre
        variance = self._expected(solver.process, time)
        looks = may[:, None] & (np.abs(offsets) <= reach)
        time = np.where(looks, time, nominal[:, None])
        # A step that may not look sees only the place in the middle, which is nominal.
        seen = looks | (~may[:, None] & (offsets == 0))
        shift: dict[str, Any] = {
            "variance": np.where(seen, variance, np.inf),
            "time": time,
            "centre": nominal,
            "half": np.where(may, reach, 0),
            "index": np.arange(t.size, dtype=np.int32),
        }
        if _in_step(solver, self.mode):
            shift["nominal"] = _past(t, solver.depth)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            own = self._own(solver, rows, t, t_next, time, unit, count)
            moved = looks & ((time != nominal[:, None]) | (self.mode == "ts_adm"))
            shift["own"] = {k: _mixed(moved, rows[k], v) for k, v in own.items()}
        return {**rows, "shift": shift}

    def check(self, solver: Solver) -> None:
        """Raises `UserError` unless Time-Shift has a meaning for the solver and its process."""
        process, name = solver.process, type(solver).__name__
        t = np.linspace(process.t_min, process.t_max, 9)
        if not np.allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, atol=1e-6):
            raise UserError(
                "sampler.shift: Time-Shift compares pixels with 1 - abar, which is the variance of"
                f" variance-preserving processes, but the process is {type(process).__name__};"
                " choose the process table, vp or cosine, or shift none"
            )
        if self.mode == "paper":
            known = type(solver).step in (Solver.step, DDPM.step, Multistep.step)
            known |= isinstance(solver, AdamsBashforth)
        else:
            known = isinstance(solver, _KINDS[self.mode])
        if not known:
            legal = {
                "paper": "ddim, ddpm, pndm, ipndm, deis or a multistep DPM-Solver",
                "ts_dpm": "ddim, ddpm, pndm, dpm_solver_multistep or deis",
                "ts_adm": "ddim",
            }
            raise UserError(
                f"sampler.shift: a {name} cannot take each image's own times in mode"
                f" {self.mode!r}; choose {legal[self.mode]}"
            )
        if self.mode == "ts_adm" and not isinstance(process, Table):
            raise UserError(
                'sampler.shift.mode: "ts_adm" reads a table of betas backwards, but the process is'
                f" {type(process).__name__}; choose the process table"
            )

    def check_latents(self) -> None:
        """Warns that latents tell little; `UserError` unless their own variance is counted."""
        if self.variance_target != "marginal":
            raise UserError(
                "sampler.shift.variance_target: latents are scaled to a variance near 1, so that a"
                ' sample has it at every time and 1 - abar says nothing; take "marginal" with their'
                " v0, or shift none"
            )
        warnings.warn(
            f"sampler.shift: expect nothing of Time-Shift for latents of variance {self.v0:g}: the"
            " nearer it is to 1, the less a sample's variance depends on its time",
            stacklevel=2,
        )

    def _half(self, solver: Solver, window: int) -> int:
        return window if self.mode == "ts_dpm" and isinstance(solver, DEIS) else window // 2

    def _plan(self, solver: Solver, t: np.ndarray, t_next: np.ndarray, unit: float):
        """Returns what may shift [n], the time in whose place it does, and the window's centre."""
        before = np.append(np.inf, t[:-1])
        if self.mode == "paper":
            centre = t
            if self.window_center == "literal":
                strides = np.abs(t - t_next) / unit
                if not np.allclose(strides, 1):
                    raise UserError(
                        'sampler.shift.window_center: "literal" is of grids that visit every time,'
                        f" but this one has strides up to {np.max(strides):g}; take state"
                    )
                centre = np.append(t[:1], t[:-1])
            compared = before if self.cutoff_on == "current" else t
            nominal = t
        elif self.mode == "ts_adm":
            nominal, centre, compared = t, t, t
        elif isinstance(solver, DEIS):
            return t / unit - 1 > self.cutoff, t, t
        else:
            nominal, centre, compared = t_next, t_next, t_next
        may = (compared / unit - 1 > self.cutoff) & (np.arange(t.size) > 0)
        return may, nominal, np.where(may, centre, nominal)

    def _expected(self, process: Process, time: np.ndarray) -> np.ndarray:
        """Returns the pixel variance expected at the times."""
        if self.mode == "ts_adm":
            assert isinstance(process, Table)
            mirror = np.clip(np.round(process.n + 1 - time), 1, process.n)
            return process.alpha(mirror) ** 2
        return process.sigma(time) ** 2 + self.v0 * process.alpha(time) ** 2

    def _own(self, solver, rows, t, t_next, time, unit, count) -> dict[str, np.ndarray]:
        """Returns the coefficients [n, K, ...] of each place."""
        start, end = (np.broadcast_to(v[:, None], time.shape) for v in (t, t_next))
        if self.mode == "paper" or isinstance(solver, DEIS):
            start = time
        elif self.mode == "ts_dpm":
            end = time
        else:
            if t.size < 2:
                raise UserError('sampler.steps: mode "ts_adm" divides by steps - 1; take 2 or more')
            end = np.maximum(time - (count // (t.size - 1) + 1) * unit, 0.0)
        own = _table(solver, start, end)
        if self.mode == "ts_dpm" and isinstance(solver, DEIS):
            return {k: own[k] for k in ("t", "p", "q")}
        if self.mode == "ts_dpm" and "t_2" in own:  # released: inner levels are looked up, cut off
            inner = _table(solver, start, np.floor(own["t_2"] / unit) * unit)
            own |= {"a_2": inner["a"], "b_2": inner["b"]}
        if "alpha_next" in rows:  # of guidance that puts back another noise
            own["alpha_next"] = solver.process.alpha(end)
        return own

    def apply(self, solver: Solver, predict: Predict, steps: int) -> tuple[Any, Predict]:
        """Returns the solver with times of each image's own, for scans of `steps` rows.

        Without `widest`, a window of 0 or a cutoff above all times leaves the solver as it is.
        """
        _, count = units(solver.process)
        idle = self.cutoff >= count - 1 or (self.window == 0 and self.mode != "ts_adm")
        if idle and not self.widest:
            return solver, predict
        if _in_step(solver, self.mode):
            wrapped = ShiftedMultistep if self.mode == "paper" else ShiftedEnds
            return wrapped(solver, steps), predict
        return Shifted(solver, steps), predict


@dataclasses.dataclass(frozen=True)
class EpsilonScaling:
    """The noise estimate over scale + slope i at time i (Ning et al., ICLR 2024).

    D' = (x - sigma eps/(scale + slope i))/alpha. About 1.00x; the best value falls with the number
    of steps. Needs alpha > 0. `renormalise` brings every image to the deviation sigma before each
    step instead, or too (an option of the code released with Time-Shift).
    """

    scale: float = option(1.0, "divisor of the noise estimate")
    slope: float = option(0.0, "its growth with the time, counted 0 .. N-1")
    renormalise: bool = option(False, "scale each image to the deviation sigma(t) before each step")

    def __post_init__(self):
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def rows(self, solver: Solver, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows with scale and slope; `UserError` where the first time has no data."""
        t = np.asarray(rows["t"])
        if np.any(solver.process.alpha(t) == 0):
            raise UserError(
                "sampler.shift: scaled noise says nothing where alpha = 0; start the grid later"
            )
        return {**rows, "noise_scale": np.tile([self.scale, self.slope], (t.size, 1))}

    def apply(self, solver: Solver, predict: Predict, steps: int) -> tuple[Any, Predict]:
        """Returns the solver, and `predict` with another estimate of the data."""
        del steps
        process = solver.process
        unit, _ = units(process)

        def scaled(x, row, memory):
            out, memory = predict(x, row, memory)
            t = jnp.broadcast_to(row["t"], x.shape[:1])
            scale, slope = row["noise_scale"][..., 0], row["noise_scale"][..., 1]
            share = bcast(1 / (scale + slope * (t / unit - 1)), x)
            x0 = x / bcast(process.alpha(t), x)
            return dataclasses.replace(out, x0=x0 + share * (out.x0 - x0)), memory

        return Renormalised(solver) if self.renormalise else solver, scaled


SHIFTS = Registry(
    "shift", {"none": NoShift, "time_shift": TimeShift, "epsilon_scaling": EpsilonScaling}
)


def units(process: Process) -> tuple[float, int]:
    """Returns (unit, number) of the times of a table: time i is t = (i + 1) unit."""
    count = process.n if isinstance(process, Table) else _ENTRIES
    return process.t_max / count, count


def histogram(process: Process, rows: Mapping[str, Any], times: np.ndarray) -> list[dict[str, Any]]:
    """Returns for each step what the samples of `times` [m, n] (in t) chose; `rows`: the task's.

    "nominal": the time in whose place they were chosen; "shifts": {times of the table moved, up is
    more noise: share of the samples}; "mean": their mean; "bottom", "top": shares at the window's
    ends, 0 where the step had no window. `times` is the measure "shifted_times".
    """
    shift = rows["shift"]
    times = np.asarray(times, np.float64)
    unit, _ = units(process)
    found = []
    for i, (centre, half) in enumerate(zip(shift["centre"], shift["half"])):
        moved = np.round((times[:, i] - float(centre)) / unit).astype(int)
        values, counts = np.unique(moved, return_counts=True)
        share = dict(zip(values.tolist(), (counts / moved.size).tolist()))
        found.append(
            {
                "nominal": float(centre),
                "shifts": share,
                "mean": float(np.mean(moved)),
                "bottom": share.get(-int(half), 0.0) if half else 0.0,
                "top": share.get(int(half), 0.0) if half else 0.0,
            }
        )
    return found


def _in_step(solver: Solver, mode: str) -> TypeGuard[Multistep]:
    """Whether coefficients need the times of past values, and so are computed in the step."""
    if not isinstance(solver, Multistep) or isinstance(solver, AdamsBashforth):
        return False
    return mode == "paper" or not isinstance(solver, DEIS)


def _table(solver: Solver, start: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the solver's rows for steps start -> end [n, K], leaves [n, K, ...]."""
    flat = solver.row(start.ravel(), end.ravel())
    return {
        k: np.broadcast_to(v, (start.size, *np.shape(v)[1:])).reshape(
            *start.shape, *np.shape(v)[1:]
        )
        for k, v in flat.items()
    }


def _mixed(moved: np.ndarray, nominal: Any, own: np.ndarray) -> np.ndarray:
    """Returns `own` [n, K, ...] where `moved` [n, K], else the step's nominal numbers [n, ...]."""
    nominal = np.asarray(nominal)[:, None]
    return np.where(bcast(moved, own), own, np.broadcast_to(nominal, own.shape))


def _past(t: np.ndarray, depth: int) -> np.ndarray:
    """Returns the times [n, depth] of the values at each step, newest first."""
    return np.stack(
        [
            np.concatenate([np.full(min(j, t.size), UNSET), t[: max(t.size - j, 0)]])
            for j in range(depth)
        ],
        axis=-1,
    )
