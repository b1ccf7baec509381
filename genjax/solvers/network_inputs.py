"""What a network is given beside x, t and the condition at each step of a solver.

`rows(process, model, shape, rows)` returns the rows with "inputs" (and "inputs_2", ... for further
stages' times "t_2", ...): leaves with the steps as leading axis, arguments of the compiled sampler
like every other coefficient. Skip-Tuning (Ma et al., arXiv 2402.15170) scales the long skips of a
U-Net; AutoDiffusion (Li et al., arXiv 2309.10438) leaves blocks out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import Registry, option, required
from genjax.process.gaussian import Process
from genjax.solvers.base import check_interval, inside, stage_times

_WHERE = {
    "concat": "skip_scale",
    "shortcut": "skip_shortcut_scale",
    "post_norm": "skip_norm_scale",
}
_OVER_TIME = ("constant", "increasing", "decreasing", "log_lam")


@dataclasses.dataclass(frozen=True)
class NoInputs:
    """Nothing."""

    def rows(
        self, process: Process, model: Any, shape: tuple[int, ...], rows: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the rows unchanged."""
        del process, model, shape
        return dict(rows)


@dataclasses.dataclass(frozen=True)
class SkipTuning:
    """rho_i from `bottom`, the deepest skip, in even steps to `top`, the one nearest the pixels.

    With k skips and i = 0 .. k-1 from the bottom, rho_i = bottom + (top - bottom) i/k, or i/(k - 1)
    if `inclusive`, so that the last is `top` itself (the paper leaves open which). At the time t it
    is 1 - (1 - rho_i) g(t): g = 1, or 0 outside the `interval` of lam = sigma/alpha. The paper's
    names count from data to noise: "increasing" is rho_i at the data and 1 at the first step,
    "decreasing" the reverse, linear in the step's number; "log_lam" falls from 1 at the first time
    to rho_i at the last one with noise, linear in ln lam.
    """

    bottom: float = required("factor of the deepest skip, such as 0.8")
    top: float = option(1.0, "factor of the skip nearest the pixels")
    inclusive: bool = option(False, "whether the last skip has `top` itself")
    where: str = option(
        "concat",
        "what is scaled: concat (the skip), shortcut (where the block's shortcut reads it), "
        "post_norm (after the block's first normalisation)",
    )
    over_time: str = option("constant", "constant, increasing, decreasing or log_lam")
    interval: tuple[float, float] | None = option(
        None, "tune only where lo < sigma/alpha <= hi (None: everywhere)"
    )

    def __post_init__(self):
        if min(self.bottom, self.top) < 0:
            raise ValueError("bottom and top must not be negative")
        if self.where not in _WHERE:
            raise ValueError(f"where: {self.where!r} is none of {', '.join(_WHERE)}")
        if self.over_time not in _OVER_TIME:
            raise ValueError(f"over_time: {self.over_time!r} is none of {', '.join(_OVER_TIME)}")
        check_interval(self.interval)

    def factors(self, k: int) -> np.ndarray:
        """Returns rho [k] in the order of the encoder: first the skip nearest the pixels."""
        parts = max(k - 1, 1) if self.inclusive else k
        rho = self.bottom + (self.top - self.bottom) * np.arange(k) / parts
        return rho[::-1]

    def rows(
        self, process: Process, model: Any, shape: tuple[int, ...], rows: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the rows with a factor of each skip; `UserError` for a network without them."""
        del shape
        k = getattr(model, "num_skips", 0)
        if not k:
            raise UserError(
                f"sampler.inputs: a {type(model).__name__} has no skips to scale; choose a unet, "
                "edm2 or uvit, or the name none"
            )
        if _WHERE[self.where] not in model.skip_scales:
            raise UserError(
                f"sampler.inputs.where: a {type(model).__name__} has no {self.where!r}; take concat"
            )
        given = {}
        for suffix, t in stage_times(rows).items():
            g = self._strength(process, np.asarray(rows["t"]), np.asarray(t))
            scale = 1 - (1 - self.factors(k)) * g[:, None]
            before = rows.get("inputs" + suffix, rows.get("inputs", {}))
            given["inputs" + suffix] = {**before, _WHERE[self.where]: scale}
        return {**rows, **given}

    def _strength(self, process: Process, t: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Returns g at the times `own` of a stage of the steps that start at the times t."""
        place = np.linspace(0.0, 1.0, len(t)) if len(t) > 1 else np.zeros(1)
        if self.over_time == "constant":
            g = np.ones(len(t))
        elif self.over_time == "log_lam":
            with np.errstate(divide="ignore"):  # alpha is 0 where flow starts, sigma at data
                level = np.log(process.sigma(own)) - np.log(process.alpha(own))
                steps = np.log(process.sigma(t)) - np.log(process.alpha(t))
            first, last = np.max(steps, where=np.isfinite(steps), initial=-np.inf), steps[-1]
            g = np.clip((first - level) / (first - last), 0.0, 1.0) if first > last else place
        else:
            g = place if self.over_time == "increasing" else 1 - place
        return g * inside(process, own, self.interval)


@dataclasses.dataclass(frozen=True)
class BlockMask:
    """Blocks left out at each step: `skipped[i]` are the numbers of those that step i passes over.

    Numbers count, from 0 in the order of computation, what the network can leave out of an image of
    this size (`num_blocks`): residual branches and attentions of U-Nets, whole blocks of DiT.
    A block is skipped with its work, in every stage of the step.
    """

    skipped: tuple[tuple[int, ...], ...] = required("a list of block numbers for every step")

    def rows(
        self, process: Process, model: Any, shape: tuple[int, ...], rows: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the rows with a mask per step; `UserError` where numbers or steps do not fit."""
        del process
        n = len(np.asarray(rows["t"]))
        if len(self.skipped) != n:
            raise UserError(
                f"sampler.inputs.skipped: lists {len(self.skipped)} steps, the solver takes {n}"
            )
        mask = masks(self.skipped, number_of_blocks(model, shape))
        given = {
            f"inputs{s}": {**rows.get(f"inputs{s}", {}), "block_mask": mask}
            for s in stage_times(rows)
            if not s or f"inputs{s}" in rows
        }
        return {**rows, **given}


def number_of_blocks(model: Any, shape: tuple[int, ...]) -> int:
    """Returns how many blocks a network can leave out; `UserError` if none."""
    if not hasattr(model, "num_blocks"):
        raise UserError(
            f"sampler.inputs: no block of a {type(model).__name__} can be left out; choose a dit, "
            "unet or edm2"
        )
    return model.num_blocks(shape)


def masks(skipped, n: int) -> np.ndarray:
    """Returns float64 [steps, n]: 0 where `skipped` names a block, else 1; checks the numbers."""
    mask = np.ones((len(skipped), n))
    for i, numbers in enumerate(skipped):
        wrong = [b for b in numbers if not 0 <= b < n]
        if wrong:
            raise UserError(
                f"sampler.inputs.skipped: block {wrong[0]} of step {i} is none of 0 to {n - 1}"
            )
        mask[i, list(numbers)] = 0.0
    return mask


INPUTS = Registry(
    "network input",
    {"none": NoInputs, "skip_tuning": SkipTuning, "block_mask": BlockMask},
)
