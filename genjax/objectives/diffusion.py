"""Losses of diffusion and flow models, all on one draw of data, noise, time and condition.

Each is `(parts, trained, view, batch, key, progress) -> (loss, Aux)`, the mean over the batch of a
loss per sample that is itself a mean over the sample's elements, unless `Denoising.reduction` says
otherwise.

Score SDE's losses are choices of `Denoising` with precond "eps" (VE: `negative`), for which
(std score + z)^2 is the plain squared error: continuous with times "uniform", discrete with
"discrete" (VE) or process "table" and "index" (VP), reduction "mean" or "half_sum" as the published
config has it. Likelihood weighting is weighting "likelihood" with times "uniform" or, sampled by
importance, "log_lam". EDM's is weighting "edm", reduction "sum".
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys
from genjax.core.arrays import Array, Tree, bcast, per_sample_mean
from genjax.core.errors import UserError
from genjax.core.registry import choice, option
from genjax.core.types import Aux, Progress, View, pytree
from genjax.objectives.vlb import vlb_bits
from genjax.objectives.weighting import WEIGHTINGS, Likelihood, conversion, row
from genjax.process.coupling import Coupling
from genjax.process.denoiser import Denoiser, Output
from genjax.process.gaussian import Process
from genjax.process.precond import Score
from genjax.process.table import Table
from genjax.process.times import Discrete, Index, TimeDist

Metrics = dict[str, tuple[Array, Array]]
_LOG_BIN = math.log(1e3)  # bins of noise level do not divide what lies beyond


@pytree
class Draw:
    """One training draw: x = alpha x0 + sigma eps at time t [b], its condition, its weight [b]."""

    x0: Array
    eps: Array
    x: Array
    t: Array
    cond: Any
    weight: Array


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the losses of this file share.

    `prepare(stream, view, key) -> (x0, cond)`: the stream's arrays as the process's data (float32
    [b, ...]) and the condition; `null(cond)`: the same condition, all null; `drop`: probability
    with which a training sample loses its whole condition. `augment(key, x0) -> (x0', labels)`
    changes the data of training samples and says how in cond["augment"]. Those labels are never
    dropped: without them the unconditional network would learn changed data.
    """

    denoiser: Denoiser
    times: TimeDist
    coupling: Coupling
    prepare: Callable[[Mapping, View, Array], tuple[Array, Any]]
    null: Callable[[Any], Any]
    drop: float
    augment: Callable[[Array, Array], tuple[Array, Array]] | None = None

    def __post_init__(self):
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop must lie in [0, 1], got {self.drop}")

    def draw(
        self, view: View, stream: Mapping, key: Array, progress: Progress, train: bool
    ) -> Draw:
        """Returns data, noise, times and conditions of one batch.

        Only in training are conditions dropped and data augmented.
        """
        process = self.denoiser.process
        x0, cond = self.prepare(stream, view, keys.fold(key, "prepare"))
        labels = None
        if train and self.augment is not None:
            x0, labels = self.augment(keys.fold(key, "augment"), x0)
        x0, eps = self.coupling.sample(keys.fold(key, "noise"), x0.astype(jnp.float32), stream)
        b = x0.shape[0]
        times = self.times.sample(keys.fold(key, "times"), b, progress, process)
        if train and self.drop > 0 and cond is not None:
            cond = drop_condition(keys.fold(key, "drop"), cond, self.null(cond), self.drop, b)
        if labels is not None:
            cond = {**(cond or {}), "augment": labels}
        weight = jnp.ones((b,), jnp.float32) if times.weight is None else times.weight
        return Draw(x0, eps, process.perturb(x0, eps, times.t), times.t, cond, weight)

    def evaluate(self, params: Tree, draw: Draw, key: Array, train: bool) -> tuple[Output, Array]:
        """Returns the denoiser's output and F - F* [b, ...], the network's own error."""
        network_key = keys.fold(key, "network") if train else None
        denoiser = self.denoiser
        out = denoiser(params, draw.x, draw.t, draw.cond, key=network_key, train=train)
        target = denoiser.precond.target(denoiser.process, draw.t, draw.x0, draw.eps)
        return out, out.raw - target


def drop_condition(key: Array, cond: Tree, null: Tree, rate: float, b: int) -> Tree:
    """Returns `cond` with `null` in about `rate` of the b samples, one mask for all leaves."""
    mask = jax.random.bernoulli(key, rate, (b,))
    return jax.tree.map(lambda c, n: jnp.where(bcast(mask, c), n, c).astype(c.dtype), cond, null)


def report(weight: Array, **losses: Array) -> tuple[Array, Aux]:
    """Returns the scalar loss and `Aux`: every loss [b] times `weight` as (sum, count).

    The one called `loss` is what is trained.
    """
    count = jnp.asarray(weight.shape[0], jnp.float32)
    metrics = {name: (jnp.sum(value * weight), count) for name, value in losses.items()}
    return metrics["loss"][0] / count, Aux(metrics=metrics)


def bin_edges(process: Process, n: int) -> np.ndarray:
    """Returns the n - 1 inner edges, in sigma/alpha, of n bins of noise level; float64, rising.

    They are even in log(sigma/alpha) between its values at t_min and t_max, both cut to
    [1e-3, 1e3]; the outermost bins reach on to 0 and infinity.
    """
    ends = np.array([process.t_min, process.t_max], np.float64)
    low, high = np.clip(-process.logsnr_half(ends), -_LOG_BIN, _LOG_BIN)
    return np.exp(np.linspace(low, high, n + 1)[1:-1])


def binned(process: Process, n: int, t: Array, weight: Array, loss: Array) -> Metrics:
    """Returns "loss/bin_0" (least noise) .. "loss/bin_{n-1}": (sum, count) of `loss` [b] by bin.

    `count` is the sum of the samples' `weight` [b], so that a bin's mean is that of the law which
    the loss is defined with. A bin without samples counts 0.
    """
    edges = jnp.asarray(bin_edges(process, n), jnp.float32)
    index = jnp.searchsorted(edges, process.lam(t))
    # where, not a product: what is not finite in another bin must not spread
    hit = index[None] == jnp.arange(n)[:, None]
    sums = jnp.sum(jnp.where(hit, loss * weight, 0), 1)
    counts = jnp.sum(jnp.where(hit, weight, 0), 1)
    return {f"loss/bin_{i}": (sums[i], counts[i]) for i in range(n)}


@dataclasses.dataclass(frozen=True)
class _Objective(abc.ABC):
    """A loss per sample on the draw of `Parts`; subclasses are frozen dataclasses."""

    bins: int = option(
        0, 'bins of noise level with metrics "loss/bin_i", the mean loss there (0: none)'
    )

    def __post_init__(self):
        if self.bins < 0:
            raise ValueError(f"bins must be at least 0, got {self.bins}")

    def check(self, parts: Parts) -> None:  # noqa: B027  most losses have nothing to refuse
        """Raises `UserError` if this loss has no meaning with `parts`."""

    @abc.abstractmethod
    def losses(self, parts: Parts, draw: Draw, out: Output, error: Array) -> dict[str, Array]:
        """Returns name -> loss per sample [b]; "loss" is the one that is trained."""

    def __call__(
        self,
        parts: Parts,
        trained: Mapping[str, Tree],
        view: View,
        batch: Mapping[str, Mapping[str, Array]],
        key: Array,
        progress: Progress,
        *,
        train: bool = True,
    ) -> tuple[Array, Aux]:
        """Returns the loss of network "model" on stream "main", and its parts.

        With `train=False` conditions are kept and the network runs without dropout.
        """
        self.check(parts)
        draw = parts.draw(view, batch["main"], key, progress, train)
        out, error = parts.evaluate(trained["model"], draw, key, train)
        losses = self.losses(parts, draw, out, error)
        loss, aux = report(draw.weight, **losses)
        if self.bins:
            bins = binned(parts.denoiser.process, self.bins, draw.t, draw.weight, losses["loss"])
            aux = dataclasses.replace(aux, metrics=aux.metrics | bins)
        return loss, aux


_REDUCTIONS = ("mean", "sum", "half_sum")
_TARGETS = ("F", "eps", "x0", "v", "velocity", "score")


@dataclasses.dataclass(frozen=True)
class Denoising(_Objective):
    """Weighted squared error of the noise, the data, v, ... of any network.

    The error is that of `target`, converted from the network's own ("F") by the ratio of their
    c_out. Every weighting but `uniform` fixes the weight of the data's error, and thereby the loss,
    whatever the target is. Metric "mse": the network's own error without any weight, always a mean
    over elements.

    `reduction` over a sample's elements: "mean" (Score SDE's VP), "half_sum" (most of its VE
    configs) or "sum" (EDM). It matters to gradient clipping and Adam's epsilon.
    """

    target: str = option("F", f"whose error `uniform` weights evenly: one of {', '.join(_TARGETS)}")
    weighting: Any = choice(WEIGHTINGS, {"name": "uniform"}, "the weight over time")
    reduction: str = option("mean", f"over a sample's elements: one of {', '.join(_REDUCTIONS)}")

    def __post_init__(self):
        super().__post_init__()
        if self.target not in _TARGETS:
            raise ValueError(f"target: {self.target!r} is unknown; choose one of {list(_TARGETS)}")
        if self.reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction: {self.reduction!r} is unknown; choose one of {list(_REDUCTIONS)}"
            )

    def check(self, parts):
        if isinstance(self.weighting, Likelihood) and isinstance(parts.times, Discrete | Index):
            raise UserError(
                "objective.weighting: likelihood weighs by the rate g^2 of continuous time, but "
                f'times.name "{type(parts.times).__name__.lower()}" draws discrete levels; use '
                '"uniform" or "log_lam"'
            )

    def losses(self, parts, draw, out, error):
        process, precond = parts.denoiser.process, parts.denoiser.precond
        mse = per_sample_mean(error**2)
        target = row(self.target, precond)
        weight = self.weighting.weight(process, precond, target, draw.t)
        return {"loss": mse * weight * self._factor(error), "mse": mse}

    def _factor(self, error: Array) -> float:
        """Returns the reduction over a sample's elements, over their mean."""
        if self.reduction == "mean":
            return 1.0
        size = math.prod(error.shape[1:])
        return float(size) if self.reduction == "sum" else size / 2


_FLOW_WEIGHTS = ("uniform", "velocity", "likelihood")


@dataclasses.dataclass(frozen=True)
class Flow(_Objective):
    """SiT's losses; the process is the path, the precond (velocity, eps, score) the prediction.

    uniform: the plain error of the velocity or the noise; of the score, sigma^2 times it.
    velocity: the error of the velocity that follows from the prediction, lam^2 times the noise's
    with SiT's lam = g^2/(2 sigma). likelihood: lam/sigma times the noise's error, half of g^2 times
    the score's. Velocity predictions are published with `uniform`, which is `velocity` for them.
    Metric "mse": the network's own error without any weight.
    """

    weighting: str = option("uniform", f"one of {', '.join(_FLOW_WEIGHTS)}")

    def __post_init__(self):
        super().__post_init__()
        if self.weighting not in _FLOW_WEIGHTS:
            raise ValueError(
                f"weighting: {self.weighting!r} is unknown; choose one of {list(_FLOW_WEIGHTS)}"
            )

    def losses(self, parts, draw, out, error):
        process, precond = parts.denoiser.process, parts.denoiser.precond
        mse = per_sample_mean(error**2)
        if self.weighting == "uniform":
            target = "eps" if isinstance(precond, Score) else "F"
            weight = conversion(process, precond, row(target, precond), draw.t)
        elif self.weighting == "velocity":
            weight = conversion(process, precond, row("velocity", precond), draw.t)
        else:
            likelihood = WEIGHTINGS.build({"name": "likelihood"})
            weight = 0.5 * likelihood.weight(process, precond, precond, draw.t)
        return {"loss": mse * weight, "mse": mse}


@dataclasses.dataclass(frozen=True)
class Hybrid(_Objective):
    """DiT's loss: squared error of the noise, plus the variational bound of the sampled step.

    The bound, in bits per element, trains the learned variance alone: the mean's gradient is
    stopped. Its weight is 1 for each sampled t, which is L_simple + 0.001 L_vlb of improved DDPM
    since L_vlb = 1000 E_t[bound]. Any table process; the network must have 2 C output channels.
    Metrics "mse" and "vb": the two terms.
    """

    levels: int = option(256, "grey levels of the data on [-1, 1], for the likelihood at t = 1")

    def __post_init__(self):
        super().__post_init__()
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, got {self.levels}")

    def check(self, parts):
        process = parts.denoiser.process
        if not isinstance(process, Table) or not isinstance(parts.times, Index):
            raise UserError(
                'objective.name: hybrid needs process.name "table" and times.name "index", not '
                f"{type(process).__name__} and {type(parts.times).__name__}"
            )

    def losses(self, parts, draw, out, error):
        process, precond = cast(Table, parts.denoiser.process), parts.denoiser.precond
        if out.variance is None:
            raise UserError(
                "objective.name: hybrid trains a learned variance, but the network has as many "
                "output channels as input channels; set learn_sigma = true on the network"
            )
        scale = conversion(process, precond, row("eps", precond), draw.t)
        mse = per_sample_mean(error**2) * scale
        data_error = bcast(precond.c_out(process, draw.t), error) * jax.lax.stop_gradient(error)
        vb = vlb_bits(process, draw.t, draw.x0, data_error, out.variance, self.levels)
        return {"loss": mse + vb, "mse": mse, "vb": vb}
