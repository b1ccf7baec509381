"""Optimisers by name. Every field changes an update, in every optimiser that has it (tested).

The order of all of them: freeze, clip, rule, weight decay, multipliers, learning rate. Gradients
come in already accumulated, so clipping sees the whole batch. Weight decay is decoupled, lr x
weight_decay x parameter, and follows the learning-rate multipliers; only `adam` has the classical
one. Decay and multipliers are lists of (regex, factor): the first regex found in a parameter's
path decides, every parameter must be covered and every regex must decide something.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.linen import meta

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import Registry, choice, option
from genjax.core.tree import by_rules, flatten, map_with_path
from genjax.training.factored import (
    quantised_ema,
    scale_by_factored_moments,
    scale_by_parameter_rms,
)
from genjax.training.schedules import SCHEDULES

Transform = optax.GradientTransformation
Rate = optax.Schedule  # optimiser updates done -> learning rate
Factors = tuple[tuple[str, float], ...]
_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What all optimisers have."""

    learning_rate: float = option(1e-4, "peak learning rate")
    schedule: Any = choice(SCHEDULES, {"name": "constant"}, "what multiplies the learning rate")
    clip: float | None = option(None, "largest global norm of the gradient; null: not clipped")
    weight_decay: float = option(0.0, "weight decay; see the optimiser")
    decay: Factors = option(((".*", 1.0),), "(regex, factor of weight_decay) by parameter path")
    multipliers: Factors = option(((".*", 1.0),), "(regex, factor of the learning rate) by path")
    freeze: tuple[str, ...] = option((), "regexes of parameters that are never changed")

    def __post_init__(self):
        if self.learning_rate < 0 or self.weight_decay < 0:
            raise ValueError("learning_rate and weight_decay must not be negative")
        if self.clip is not None and self.clip <= 0:
            raise ValueError("clip must be positive, or null for no clipping")
        for key in ("b1", "b2"):
            if not 0 <= getattr(self, key, 0.0) < 1:
                raise ValueError(f"{key} must lie in [0, 1), not {getattr(self, key)}")
        if getattr(self, "eps", 1.0) <= 0:
            raise ValueError("eps must be positive")
        legal = (*_DTYPES, "int8") if isinstance(self, Adafactor) else _DTYPES
        if getattr(self, "moment_dtype", "float32") not in legal:
            raise ValueError(f"moment_dtype must be one of {', '.join(legal)}")

    def rate(self, images, total_images: float):
        """Returns the learning rate of the update after `images` images."""
        return self.learning_rate * self.schedule(images, total_images)

    def rule(self, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
        """Returns gradients -> updates, for trees of weight-decay rates and of multipliers."""
        raise NotImplementedError

    def build(self, params: Tree, batch: int, total_images: int) -> Transform:
        """Returns the optimiser of `params`.

        `params`: arrays or shapes, with or without Flax's boxes of axis names (the state is made
        of what `init` is given, boxed or not); `batch`: images of the main stream between two
        updates; `total_images`: length of training, for schedules. Raises `UserError` where a
        regex decides nothing, or a parameter is not covered.
        """
        params = meta.unbox(params)
        frozen = _frozen(params, self.freeze)
        decay = by_rules(params, self.decay, "optimizer.decay")
        decay = jax.tree.map(lambda factor: self.weight_decay * factor, decay)
        multipliers = by_rules(params, self.multipliers, "optimizer.multipliers")

        def rate(count):
            return self.rate(jnp.asarray(count, jnp.float32) * batch, float(total_images))

        steps = [optax.clip_by_global_norm(self.clip)] if self.clip is not None else []
        steps.append(self.rule(rate, decay, multipliers))
        tx = optax.chain(*steps)
        if not self.freeze:
            return tx
        trained = jax.tree.map(lambda x: not x, frozen)
        return optax.chain(optax.masked(optax.set_to_zero(), frozen), optax.masked(tx, trained))


def _frozen(params: Tree, patterns: tuple[str, ...]) -> Tree:
    paths = flatten(params)
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(
                f'optimizer.freeze: the pattern "{pattern}" matches no parameter; correct it'
            )
    frozen = map_with_path(lambda path, _: any(re.search(p, path) for p in patterns), params)
    if paths and all(jax.tree.leaves(frozen)):
        raise UserError("optimizer.freeze: nothing is left to train; narrow the patterns")
    return frozen


def _with_trees(fn: Callable[..., Array], *trees: Tree) -> Transform:
    """Returns the stateless transform update -> fn(update, parameter, *(leaf of each tree)).

    Frozen parameters stand in updates as optax's masked nodes, without leaves; the trees, complete,
    are cut to match.
    """

    def update(updates, params):
        masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731

        def one(u, p, *leaves):
            return u if masked(u) else fn(u, p, *leaves)

        return jax.tree.map(one, updates, params, *trees, is_leaf=masked)

    return optax.stateless(update)


def _add_decay(decay: Tree) -> Transform:
    return _with_trees(lambda u, p, factor: u + factor * p if factor else u, decay)


def _multiply(multipliers: Tree) -> Transform:
    return _with_trees(lambda u, _, factor: factor * u if factor != 1.0 else u, multipliers)


def _decoupled(core: Transform, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
    return optax.chain(
        core, _add_decay(decay), _multiply(multipliers), optax.scale_by_learning_rate(rate)
    )


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); decays every parameter."""

    weight_decay: float = option(0.01, "decoupled: the update loses lr x this x parameter")
    b1: float = option(0.9, "decay of the first moment")
    b2: float = option(0.999, "decay of the second moment")
    eps: float = option(1e-8, "added to the root of the second moment")
    moment_dtype: str = option("float32", "float32 or bfloat16: how the first moment is kept")

    def rule(self, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
        core = optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.moment_dtype)
        return _decoupled(core, rate, decay, multipliers)


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); its weight decay, off by default, is part of the gradient."""

    weight_decay: float = option(0.0, "this x parameter is added to the clipped gradient")
    b1: float = option(0.9, "decay of the first moment")
    b2: float = option(0.999, "decay of the second moment")
    eps: float = option(1e-8, "added to the root of the second moment")
    moment_dtype: str = option("float32", "float32 or bfloat16: how the first moment is kept")

    def rule(self, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
        return optax.chain(
            _add_decay(decay),
            optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.moment_dtype),
            _multiply(multipliers),
            optax.scale_by_learning_rate(rate),
        )


@dataclasses.dataclass(frozen=True)
class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020): momentum SGD until the variance is known, threshold 5."""

    weight_decay: float = option(0.0, "decoupled: the update loses lr x this x parameter")
    b1: float = option(0.9, "decay of the first moment")
    b2: float = option(0.999, "decay of the second moment")
    eps: float = option(1e-8, "added to the root of the second moment")

    def rule(self, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
        core = optax.scale_by_radam(self.b1, self.b2, self.eps)
        return _decoupled(core, rate, decay, multipliers)


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum; decays every parameter."""

    weight_decay: float = option(0.0, "decoupled: the update loses lr x this x parameter")
    b1: float = option(0.9, "weight of the momentum in the sign")
    b2: float = option(0.99, "decay of the momentum")
    moment_dtype: str = option("float32", "float32 or bfloat16: how the momentum is kept")

    def rule(self, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
        core = optax.scale_by_lion(self.b1, self.b2, mu_dtype=jnp.dtype(self.moment_dtype))
        return _decoupled(core, rate, decay, multipliers)


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018) with Adam's bias-corrected decay.

    Momentum, where there is any, averages updates that already carry their learning rate.
    """

    weight_decay: float = option(0.0, "decoupled: the update loses lr x this x parameter")
    b1: float = option(0.0, "decay of the momentum; 0: none is kept")
    b2: float = option(0.999, "decay of the second moment")
    eps: float = option(1e-30, "added to squared gradients")
    rms_clip: float | None = option(1.0, "largest root mean square of an update; null: any")
    parameter_scale: bool = option(False, "multiply updates by their parameter's RMS (>= 1e-3)")
    min_factored: int = option(128, "both dimensions of a matrix must have it to be factored")
    moment_dtype: str = option("float32", "float32, bfloat16 or int8: how the momentum is kept")
    stacked: tuple[str, ...] = option((), "regexes of parameters whose first axis counts layers")

    def __post_init__(self):
        super().__post_init__()
        if self.rms_clip is not None and self.rms_clip <= 0:
            raise ValueError("rms_clip must be positive, or null for no clipping")
        if self.min_factored < 1:
            raise ValueError("min_factored must be positive")

    def build(self, params: Tree, batch: int, total_images: int) -> Transform:
        paths = flatten(meta.unbox(params))
        for pattern in self.stacked:
            if not any(re.search(pattern, path) for path in paths):
                raise UserError(
                    f'optimizer.stacked: the pattern "{pattern}" matches no parameter; correct it'
                )
        return super().build(params, batch, total_images)

    def rule(self, rate: Rate, decay: Tree, multipliers: Tree) -> Transform:
        def stacked(path: str) -> bool:
            return any(re.search(pattern, path) for pattern in self.stacked)

        moments = (self.b2, self.eps, self.rms_clip, self.min_factored)
        steps = [scale_by_factored_moments(*moments, stacked)]
        if self.parameter_scale:
            steps.append(scale_by_parameter_rms(stacked=stacked))
        steps += [_multiply(multipliers), optax.scale_by_schedule(rate)]
        if self.b1 and self.moment_dtype == "int8":
            steps.append(quantised_ema(self.b1, stacked))
        elif self.b1:
            dtype = jnp.dtype(self.moment_dtype)
            steps.append(optax.ema(self.b1, debias=False, accumulator_dtype=dtype))
        lr_decay = jax.tree.map(lambda d, m: d * m, decay, multipliers)
        if any(jax.tree.leaves(lr_decay)):
            steps.append(_scheduled_decay(rate, lr_decay))
        return optax.chain(*steps, optax.scale(-1.0))


def _scheduled_decay(rate: Rate, decay: Tree) -> Transform:
    """Returns the transform that adds lr x decay x parameter."""

    def update(updates, state, params=None):
        lr = rate(state)
        add = _with_trees(lambda u, p, factor: u + lr * factor * p if factor else u, decay)
        return add.update(updates, optax.EmptyState(), params)[0], optax.safe_increment(state)

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


OPTIMIZERS = Registry(
    "optimiser",
    {"adamw": AdamW, "adam": Adam, "radam": RAdam, "adafactor": Adafactor, "lion": Lion},
)
