"""Cross entropy of a classifier, with its accuracy."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import option
from genjax.core.types import Aux, Progress, View


@dataclasses.dataclass(frozen=True)
class Classification:
    """Mean over the batch of -sum_k q_k log softmax(logits)_k.

    q = (1 - label_smoothing) onehot(label) + label_smoothing / K, K the number of classes
    (Szegedy et al. 2016, section 7).
    """

    label_smoothing: float = option(0.0, "probability spread evenly over all classes in training")

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), not {self.label_smoothing}")

    def __call__(
        self,
        logits_of: Callable[..., Array],
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
        *,
        train: bool = True,
    ) -> tuple[Array, Aux]:
        """Returns (scalar float32 loss, `Aux` with "loss" and "accuracy" as (sum, count)).

        `logits_of(params, image, train=, key=) -> [b, K]` is the task's; it trains the network
        "model" on the stream "main" with fields "image" and "label" [b]. With `train=False` the
        labels are not smoothed. Rows whose label is negative are padding and count nothing.
        """
        del view, progress
        stream = batch["main"]
        label = stream["label"]
        logits = logits_of(trained["model"], stream["image"], train=train, key=key)
        logits = logits.astype(jnp.float32)
        weight = (label >= 0).astype(jnp.float32)
        count = jnp.sum(weight)
        losses = cross_entropy(logits, label, self.label_smoothing if train else 0.0)
        right = (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)
        total = jnp.sum(losses * weight)
        metrics = {"loss": (total, count), "accuracy": (jnp.sum(right * weight), count)}
        return total / jnp.maximum(count, 1.0), Aux(metrics=metrics)


def cross_entropy(logits: Array, label: Array, smoothing: float = 0.0) -> Array:
    """Returns the cross entropy [b] in nats of `logits` [b, K] against smoothed labels [b]."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    classes = logits.shape[-1]
    q = jax.nn.one_hot(label, classes) * (1.0 - smoothing) + smoothing / classes
    return -jnp.sum(q * log_p, axis=-1)
