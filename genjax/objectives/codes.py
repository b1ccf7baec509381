"""Cross entropy of codes given those before them: the loss of Parti and of VIM."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genjax.core import keys
from genjax.core.arrays import Array, Tree, bcast
from genjax.core.registry import option
from genjax.core.types import Aux, Progress, View

Condition = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class CodeParts:
    """What a task gives the objective.

    `prepare(stream, view) -> (codes int32 [b, l], condition or None)`;
    `logits(params, codes, condition, train=, key=) -> float32 [b, l, K]`;
    `null(b) -> condition` that stands for none, or None where the network knows none.
    """

    prepare: Callable[[Mapping, View], tuple[Array, Condition | None]]
    logits: Callable[..., Array]
    null: Callable[[int], Condition] | None


@dataclasses.dataclass(frozen=True)
class NextCode:
    """-1/l sum_k log p(y_k | y_<k, condition), averaged over the batch, in nats a code.

    Plain labels as published. An example's whole condition is dropped at once, one coin each.
    `z_loss` adds z (log sum exp logits)^2, which keeps the logits of long runs from drifting.
    """

    condition_dropout: float = option(0.1, "probability of training an example without condition")
    dropout_start: float = option(0.0, "images after which conditions begin to be dropped")
    z_loss: float = option(0.0, "weight of the squared log partition function; 0: none")

    def __post_init__(self):
        if not 0 <= self.condition_dropout < 1:
            raise ValueError("condition_dropout must lie in [0, 1)")
        if self.z_loss < 0 or self.dropout_start < 0:
            raise ValueError("z_loss and dropout_start must not be negative")

    def __call__(
        self,
        parts: CodeParts,
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
        *,
        train: bool = True,
    ) -> tuple[Array, Aux]:
        """Returns (scalar float32 loss, `Aux`); it trains "model" on the stream "main".

        Metrics (sum, count): "loss" in nats a code, "accuracy". With `train=False` nothing is
        dropped, and "loss_null" is the loss without condition. Negative codes are padding: they
        count nothing.
        """
        codes, cond = parts.prepare(batch["main"], view)
        params, weight = trained["model"], (codes >= 0).astype(jnp.float32)
        count, codes = jnp.sum(weight), jnp.maximum(codes, 0)
        if train and cond is not None and self.condition_dropout:
            cond = self._dropped(parts, cond, keys.fold(key, "condition"), progress)
        logits = parts.logits(params, codes, cond, train=train, key=keys.fold(key, "dropout"))
        losses, log_z = cross_entropy(logits, codes)
        total = jnp.sum(losses * weight)
        right = (jnp.argmax(logits, axis=-1) == codes).astype(jnp.float32)
        metrics = {"loss": (total, count), "accuracy": (jnp.sum(right * weight), count)}
        if not train and cond is not None and parts.null is not None:
            alone = parts.logits(params, codes, parts.null(len(codes)), train=False, key=key)
            metrics["loss_null"] = (jnp.sum(cross_entropy(alone, codes)[0] * weight), count)
        if self.z_loss:
            total = total + self.z_loss * jnp.sum(jnp.square(log_z) * weight)
        return total / jnp.maximum(count, 1.0), Aux(metrics=metrics)

    def _dropped(self, parts: CodeParts, cond: Condition, key: Array, progress: Progress):
        if parts.null is None:
            raise ValueError("a network without null condition has nothing to drop to")
        b = len(next(iter(cond.values())))
        drop = jax.random.bernoulli(key, self.condition_dropout, (b,))
        drop &= jnp.asarray(progress.images) >= self.dropout_start
        null = parts.null(b)
        return {name: jnp.where(bcast(drop, x), null[name], x) for name, x in cond.items()}


def cross_entropy(logits: Array, codes: Array) -> tuple[Array, Array]:
    """Returns (-log softmax(logits)[codes], log sum exp logits), both float32 of codes' shape."""
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A sum, not a gather: logits may be split over the codes, and each device sums its own.
    chosen = jnp.arange(logits.shape[-1]) == codes[..., None]
    return log_z - jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1), log_z
