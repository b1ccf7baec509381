"""What a config may say about training, checkpoints, logs, sample grids and held-out loss.

Every cadence counts images, not steps, so that a change of the batch size changes no cadence.
An event happens in the step in which the images seen pass a multiple of its cadence.
"""

import dataclasses
from typing import Any

from genjax.core.registry import option


def due(every: int, before: int, after: int) -> bool:
    """Says whether images passed a multiple of `every` between `before` and `after` (0: never)."""
    return every > 0 and after // every > before // every


def _not_negative(settings, *names: str):
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must not be negative")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Length and accumulation of training."""

    images: int = option(1_000_000, "images to train on; the last batch may go beyond")
    accumulate: int = option(1, "micro-batches that one optimiser step is split into")
    ema_networks: tuple[str, ...] = option((), "networks that have EMAs (empty: all)")
    run_ahead: int = option(4, "steps that may wait on the device before the host waits for them")
    heartbeat: float = option(
        600.0, "seconds without a step after which the run ends, naming who hangs (0: never)"
    )
    compiler: dict[str, Any] = option(
        {}, "options of XLA's compiler for the step; xla_tpu_*, xla_gpu_* are for their platform"
    )

    def __post_init__(self):
        _not_negative(self, "images", "heartbeat")
        if self.images >= 2**32:
            raise ValueError("images must be below 2^32: steps count them in 32 bits")
        if self.accumulate < 1:
            raise ValueError("accumulate must be at least 1")
        if self.run_ahead < 1:
            raise ValueError("run_ahead must be at least 1")
        for name, value in self.compiler.items():
            if not isinstance(value, bool | int | float | str):
                raise ValueError(f"compiler.{name}: {value!r} is no flag, number or word")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """How often the whole state is saved, and which checkpoints stay."""

    every_images: int = option(500_000, "images between checkpoints (0: only at the end)")
    keep_last: int = option(2, "newest checkpoints that stay")
    keep_every_images: int = option(
        0, "the first checkpoint of every so many images stays (0: off)"
    )
    keep_best: int = option(0, "checkpoints that stay because best_metric was best (0: off)")
    best_metric: str = option("", "metric of keep_best, such as heldout/raw/loss")
    best_mode: str = option("min", "min or max: which value of best_metric is best")
    ema_every_images: int = option(
        0, "images between snapshots of the EMAs in ema/, for post-hoc reconstruction (0: never)"
    )

    def __post_init__(self):
        _not_negative(self, "every_images", "keep_every_images", "keep_best", "ema_every_images")
        if self.keep_last < 1:
            raise ValueError("keep_last must be at least 1")
        if self.best_mode not in ("min", "max"):
            raise ValueError(f"best_mode: {self.best_mode!r} must be min or max")
        if bool(self.keep_best) != bool(self.best_metric):
            raise ValueError("keep_best and best_metric go together: give both or neither")


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """Metrics, where they go, and traces."""

    every_images: int = option(10_000, "images between lines of metrics")
    tensorboard: bool = option(True, "write TensorBoard events to tensorboard/")
    wandb: str = option("", "Weights & Biases project (empty: none); needs wandb installed")
    trace: tuple[int, ...] = option((), "(from, to): images between which to record an xprof trace")

    def __post_init__(self):
        if self.every_images < 1:
            raise ValueError("every_images must be at least 1")
        if self.trace and not (len(self.trace) == 2 and 0 <= self.trace[0] < self.trace[1]):
            raise ValueError("trace must be (from, to) in images, with from < to")


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Sample grids drawn during training, from the raw weights and from every EMA."""

    every_images: int = option(0, "images between sample grids (0: never)")
    num: int = option(16, "images in a grid")
    columns: int = option(0, "columns of the grid (0: nearly square)")
    seed: int = option(0, "seed of the samples: the same noise in every grid")

    def __post_init__(self):
        _not_negative(self, "every_images", "columns")
        if self.num < 1:
            raise ValueError("num must be at least 1")


@dataclasses.dataclass(frozen=True)
class HeldoutSettings:
    """The loss on held-out data at fixed noise and times, raw and of every EMA, with its error."""

    every_images: int = option(0, "images between evaluations (0: never)")
    num: int = option(1024, "held-out images")
    batch: int = option(128, "global batch size; must divide num")
    split: str = option("test", "split of the data source that is held out")

    def __post_init__(self):
        _not_negative(self, "every_images")
        if self.batch < 1 or self.num < 1 or self.num % self.batch:
            raise ValueError("num must be a positive multiple of batch")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Metrics of samples that are drawn during training, from the raw weights and every EMA."""

    every_images: int = option(0, "images between evaluations (0: never)")
    metrics: tuple[str, ...] = option(("fid",), "metrics, as `genjax eval` names them")
    extractor: str = option("inception", "feature network, as `genjax eval --extractor` takes it")
    reference: str = option("", "data set or file to compare with (empty: the training data)")
    num: int = option(1000, "samples")
    batch: int = option(256, "samples, and images of a network, at a time on all devices")
    labels: str = option("balanced", "classes of the samples: balanced, uniform or data")
    seed: int = option(0, "seed of the samples and labels: the same in every evaluation")

    def __post_init__(self):
        _not_negative(self, "every_images")
        if self.num < 2 or self.batch < 1:
            raise ValueError("num is at least 2, batch at least 1")
        if not self.metrics:
            raise ValueError("metrics: name at least one")
