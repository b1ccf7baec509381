"""Rules of guidance beyond the plain one, and the registry of all: each is a `combine`.

All act on the estimates of x0. Those that are linear in them are the same on the noise; the others
say so. Norms and deviations are per image, over all its numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import Registry, option
from genjax.core.types import Prediction
from genjax.process.gaussian import Process
from genjax.solvers.base import Row
from genjax.solvers.guidance import ClassifierFree, Denoise, Unguided


@dataclasses.dataclass(frozen=True)
class Rescaled(ClassifierFree):
    """The plain rule brought to the conditional estimate's deviation (Lin et al., 2305.08891).

    D' = phi D std(D_cond)/std(D) + (1 - phi) D with D the plain rule's. The paper rescales what the
    network predicts (v); here it is x0, which is the same where alpha = 0.
    """

    phi: float = option(0.7, "how much of the rescaled estimate is taken, 0 to 1")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.phi <= 1:
            raise ValueError(f"phi must lie in [0, 1], got {self.phi}")

    def combine(self, w, yes, no, memory):
        x0, _, memory = super().combine(w, yes, no, memory)
        ratio = _std(yes) / jnp.maximum(_std(x0), 1e-8)
        return x0 * (self.phi * ratio + 1 - self.phi), None, memory


@dataclasses.dataclass(frozen=True)
class CFGpp(ClassifierFree):
    """CFG++ (Chung et al., arXiv 2406.08070): the data of the guided estimate, the null's noise.

    D = D_null + lambda (D_cond - D_null) with `weight` = lambda in [0, 1], and a step of DDIM is
    x' = alpha' D + sigma' eps_null. lambda = 1 is not conditional DDIM: the noise is still the null
    branch's. Every solver that can (`Solver.renoises`) takes its own step on the null estimates
    and moves the result by alpha' (D - D_null); for DDIM that is the step above.
    """

    renoises: ClassVar[bool] = True
    weight: float = option(0.6, "lambda, from 0 (the null model) to 1")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is CFG++'s lambda, from 0 to 1, got {self.weight}")

    @property
    def off(self) -> bool:
        return False

    def rows(self, process: Process, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows with weights, and alpha at the end of each step."""
        return {**super().rows(process, rows), "alpha_next": process.alpha(rows["t_next"])}

    def combine(self, w, yes, no, memory):
        return no + w * (yes - no), no, memory


@dataclasses.dataclass(frozen=True)
class APG(ClassifierFree):
    """Adaptive projected guidance (Sadat et al., arXiv 2410.02416), on x0.

    d = D_cond - D_null, with momentum d <- d + beta d_before, shortened to length r, and split into
    the parts along D_cond and across it: D = D_cond + (w - 1)(across + eta along). With eta = 1,
    beta = 0 and no r it is the plain rule. The paper's r: 2.5 for EDM2, 7.5 for Stable Diffusion
    2.1, 15 for SDXL (from memory).
    """

    eta: float = option(0.0, "share of the part along the conditional estimate")
    beta: float = option(-0.5, "momentum, usually negative")
    r: float | None = option(None, "largest length of d (None: no bound)")

    def __post_init__(self):
        super().__post_init__()
        if self.r is not None and not self.r > 0:
            raise ValueError(f"r must be positive, got {self.r}")

    def start(self, x: Array) -> Tree:
        return jnp.zeros_like(x)

    def combine(self, w, yes, no, memory):
        d = memory = yes - no + self.beta * memory
        if self.r is not None:
            d = d * jnp.minimum(1.0, self.r / jnp.maximum(_norm(d), 1e-12))
        unit = yes / jnp.maximum(_norm(yes), 1e-12)
        along = _sum(d * unit) * unit
        return yes + (w - 1) * (d - along + self.eta * along), None, memory


@dataclasses.dataclass(frozen=True)
class CFGZero(ClassifierFree):
    """CFG-Zero*: the plain rule with the null estimate scaled by <D_cond, D_null>/|D_null|^2.

    The authors scale velocities; here it is x0.
    """

    def combine(self, w, yes, no, memory):
        no = no * (_sum(yes * no) / jnp.maximum(_sum(no * no), 1e-12))
        return no + w * (yes - no), None, memory


@dataclasses.dataclass(frozen=True)
class Autoguidance(ClassifierFree):
    """D = D_bad + w (D - D_bad) with a worse network for D_bad (Karras et al., arXiv 2406.02507).

    The worse one, a smaller or less trained model of the same data and process, is read with its
    own settings from `model`; both see the condition, so unconditional models can be guided too.
    It is not given the network inputs of the sampler (skip scales, block masks).
    """

    two_networks: ClassVar[bool] = True

    weight: float = option(2.0, "guidance weight w; 1 is unguided")
    model: str = option("", "workdir, or folder of a converted model, of the worse network")
    ema: str | None = option(None, "its EMA (None: its config's first)")

    def __post_init__(self):
        super().__post_init__()
        if not self.model:
            raise ValueError("model must name the workdir of the worse network")

    def branches(
        self, denoise: Denoise, cond: Tree, null: Tree, other: Denoise | None
    ) -> Callable[[Array, Row], tuple[Array, Array, Any]]:
        del null
        if other is None:
            raise UserError(
                "sampler.guidance.model: the worse network of autoguidance is read by `genjax"
                " sample`, `eval` and `search`; while training, sample with another guidance"
            )

        def evaluate(x, row):
            good = denoise(x, row["t"], cond, row.get("inputs"))
            bad = other(x, row["t"], cond, None)
            out = Prediction(good.x0, variance=good.variance, features=good.features or None)
            return good.x0, bad.x0, out

        return evaluate


GUIDANCES = Registry(
    "guidance",
    {
        "none": Unguided,
        "cfg": ClassifierFree,
        "rescaled": Rescaled,
        "cfgpp": CFGpp,
        "apg": APG,
        "cfg_zero": CFGZero,
        "autoguidance": Autoguidance,
    },
)


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def _norm(x: Array) -> Array:
    return jnp.sqrt(_sum(x * x))


def _std(x: Array) -> Array:
    return jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)
