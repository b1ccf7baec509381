"""Reports of steps: left on the device until they are due, then averaged and checked."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from genjax.core.errors import Diverged
from genjax.training.guard import FINE
from genjax.training.step import Report


class Meter:
    """Averages what steps report over the time between two lines of metrics.

    `run_ahead`: steps that may wait on the device; without a bound the host would fill its memory
    with batches. `name_of(player, index)`: what `guard.first_bad` found. `sums`: those of the
    checkpoint that a run resumes from, so that its lines are those of an uninterrupted one.
    """

    def __init__(
        self,
        run_ahead: int,
        name_of: Callable[[str, int], str],
        sums: Mapping[str, Sequence[float]],
    ):
        self._run_ahead, self._name_of = run_ahead, name_of
        self._waiting: deque[tuple[int, int, Report]] = deque()
        self._sums: dict[str, list[float]] = {k: [*pair] for k, pair in sums.items()}

    def add(self, step: int, images: int, report: Report) -> None:
        """Takes the report of the step that made `step` updates and `images` images."""
        self._waiting.append((step, images, report))
        if len(self._waiting) > self._run_ahead:
            jax.block_until_ready(self._waiting[-1 - self._run_ahead][2])

    def collect(self, *, newest: bool) -> None:
        """Reads the waiting reports, but not the newest, which is still being computed.

        That one too if `newest` asks for it, or if there is nothing else to tell. Raises
        `Diverged` naming step, player and tensor where the first one is not finite.
        """
        newest = newest or not (self._sums or len(self._waiting) > 1)
        ready = [self._waiting.popleft() for _ in range(len(self._waiting) - (not newest))]
        values = jax.device_get([report for _, _, report in ready])
        for (step, images, _), report in zip(ready, values):
            for player, index in report.bad.items():
                if index != FINE:
                    raise Diverged(
                        f"step {step} (image {images:,}), player {player}: the first tensor that "
                        f'is not finite is "{self._name_of(player, int(index))}"'
                    )
            for name, (total, count) in report.metrics.items():
                sums = self._sums.setdefault(name, [0.0, 0.0])
                sums[0] += float(total)
                sums[1] += float(count)

    def sums(self) -> dict[str, list[float]]:
        """Returns name -> [sum, count] of what `take` has not returned yet, for a checkpoint."""
        return self._sums

    def take(self) -> dict[str, float]:
        """Returns the averages of what was collected since the last call."""
        out = {k: float(np.divide(s, c)) for k, (s, c) in self._sums.items() if c}
        self._sums = {}
        return out
