"""What happens beside the steps, every so many images: functions of a `Moment`."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genjax.checkpoint import Workdir
from genjax.core import keys
from genjax.core.arrays import Array, Tree
from genjax.core.types import Task, TrainState, View
from genjax.parallel import Rules, replicated, to_global, using
from genjax.training.settings import HeldoutSettings, SampleSettings

RAW = "raw"


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment of training, `step` updates and `images` images in; hooks must not keep `state`."""

    step: int
    images: int
    state: TrainState
    frozen: dict[str, Tree]
    workdir: Workdir
    mesh: Mesh
    rules: Rules

    def weights(self) -> dict[str, dict[str, Tree]]:
        """Returns "raw" and every EMA's name -> all networks (without an EMA: raw ones)."""
        averages = {name: {**self.state.params, **nets} for name, nets in self.state.ema.items()}
        return {RAW: self.state.params, **averages}


@dataclasses.dataclass(frozen=True)
class Hook:
    """`run(moment)` every `every_images` images, on every process; it returns metrics or None.

    `at_end`: also after the last step (unless `every_images` is 0).
    """

    name: str
    every_images: int
    run: Callable[[Moment], Mapping[str, float] | None]
    at_end: bool = True


def heldout(
    task: Task,
    settings: HeldoutSettings,
    open_batches: Callable[[], Iterable[Mapping[str, Mapping[str, np.ndarray]]]],
    seed: int,
) -> Hook:
    """Returns the hook that measures `heldout/WEIGHTS/METRIC`, raw and of every EMA.

    `heldout/WEIGHTS/loss_error` is the standard error of the loss, from its spread over batches.

    `open_batches()` gives this process's rows of batches: stream -> field -> rows. The first
    `settings.num / settings.batch` are used; batch i has the same noise and times at every moment.
    """
    compiled: dict[str, Callable] = {}

    def metrics(mesh: Mesh, rules: Rules):
        def measure(params, state, frozen, batch, key: Array):
            with using(mesh, rules):
                view = View(params, state.mutable, state.ema, frozen)
                return task.heldout(params, view, batch, key).metrics

        return jax.jit(measure, out_shardings=replicated(mesh))

    def run(moment: Moment) -> dict[str, float]:
        fn = compiled.setdefault("metrics", metrics(moment.mesh, moment.rules))
        count = settings.num // settings.batch
        totals: dict[str, list[np.ndarray]] = {}  # (sum, count) a batch
        read = 0
        for index, rows in zip(range(count), open_batches(), strict=False):
            batch = to_global(dict(rows), moment.mesh, moment.rules)
            key = keys.key(seed, "heldout", index)
            read += 1
            for name, params in moment.weights().items():
                found = jax.device_get(fn(params, moment.state, moment.frozen, batch, key))
                for metric, pair in found.items():
                    where = f"heldout/{name}/{metric}"
                    totals.setdefault(where, []).append(np.array(pair, np.float64))
        if read < count:
            raise RuntimeError(f"the held-out stream ended after {read} of {count} batches")
        # what no sample counted for (a bin of noise level, say) has no value
        counted = {name: np.stack(pairs) for name, pairs in totals.items()}
        counted = {name: pairs for name, pairs in counted.items() if pairs[:, 1].sum()}
        means = {name: ratio(pairs) for name, pairs in counted.items()}
        found = {name: value for name, (value, _) in means.items()}
        losses = {k: error for k, (_, error) in means.items() if k.endswith("/loss")}
        return found | {f"{k}_error": e for k, e in losses.items() if e is not None}

    return Hook("heldout", settings.every_images, run)


def ratio(pairs: np.ndarray) -> tuple[float, float | None]:
    """Returns sum/count of batches' (sum, count) [k, 2], and its standard error (None for k = 1).

    The error is that of a ratio estimator: batches are independent, samples within one need not be.
    """
    total, count = pairs.sum(0)
    mean, k = total / count, len(pairs)
    if k < 2:
        return float(mean), None
    off = pairs[:, 0] - mean * pairs[:, 1]
    return float(mean), float(np.sqrt(k / (k - 1) * np.sum(off**2)) / count)


def samples(
    settings: SampleSettings,
    draw: Callable[[dict[str, Tree], dict[str, Tree]], np.ndarray],
    picture: Callable[[np.ndarray, str], bytes],
) -> Hook:
    """Returns the hook that writes samples/IMAGES_WEIGHTS.png, raw and of every EMA.

    `draw(params, frozen)` returns uint8 [num, h, w, c]; every process calls it.
    `picture(images, title)` returns a PNG of them.
    """

    def run(moment: Moment) -> None:
        for name, params in moment.weights().items():
            images = draw(params, moment.frozen)
            if jax.process_index() == 0:
                title = f"{name}, {moment.images:,} images, step {moment.step:,}"
                file = f"samples/{moment.images:012d}_{name}.png"
                moment.workdir.write(file, picture(images, title))

    return Hook("samples", settings.every_images, run)


def due_hooks(hooks: Sequence[Hook], passed: Callable[[int], bool], last: bool) -> list[Any]:
    """Returns the hooks whose moment this is. `passed(every)`: a multiple was just passed."""
    return [h for h in hooks if passed(h.every_images) or (last and h.at_end and h.every_images)]
