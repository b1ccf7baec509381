"""What a search may choose from: candidates, and how they are drawn, changed and crossed.

A candidate is a nested tuple of numbers, equal exactly where two candidates are the same. Spaces
know nothing of networks: whoever evaluates a candidate turns its numbers into a sampler.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from genjax.core.registry import option, required

Candidate = Hashable
Rng = np.random.Generator


class Space(Protocol):
    """What a method needs of a space. `share` is the largest part of a step's blocks left out."""

    def first(self) -> Any:
        """Returns the candidate that a person would try first."""
        ...

    def random(self, rng: Rng, share: float) -> Any: ...
    def mutate(self, rng: Rng, candidate: Any, p: float, share: float) -> Any: ...
    def cross(self, rng: Rng, a: Any, b: Any, share: float) -> Any: ...
    def all(self) -> Iterator[Any]: ...


@dataclasses.dataclass(frozen=True)
class Product:
    """One value of each list: rho of Skip-Tuning, window and cutoff of Time-Shift, a weight.

    `values`: key of the sampler (dotted, such as "inputs.bottom") -> the values to choose from. A
    candidate is the tuple of their positions, in the order of the sorted keys.
    """

    values: dict[str, tuple] = required("sampler key -> list of values to choose from")

    def __post_init__(self):
        if not self.values or not all(self.values.values()):
            raise ValueError("values: give at least one key, with at least one value each")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sorted(self.values))

    @property
    def _sizes(self) -> list[int]:
        return [len(self.values[key]) for key in self.keys]

    def changes(self, candidate: tuple[int, ...]) -> dict[str, Any]:
        """Returns sampler key -> value."""
        return {key: self.values[key][i] for key, i in zip(self.keys, candidate, strict=True)}

    def first(self) -> tuple[int, ...]:
        return (0,) * len(self._sizes)

    def random(self, rng: Rng, share: float) -> tuple[int, ...]:
        del share
        return tuple(int(rng.integers(n)) for n in self._sizes)

    def mutate(self, rng: Rng, candidate, p: float, share: float) -> tuple[int, ...]:
        fresh = self.random(rng, share)
        return tuple(b if rng.random() < p else a for a, b in zip(candidate, fresh, strict=True))

    def cross(self, rng: Rng, a, b, share: float) -> tuple[int, ...]:
        del share
        return tuple(x if rng.random() < 0.5 else y for x, y in zip(a, b, strict=True))

    def all(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*map(range, self._sizes))


Step = tuple[int, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Times to evaluate and, per time, blocks to leave out (AutoDiffusion, arXiv 2309.10438).

    A candidate is a tuple of steps (number of the time, blocks left out), sorted from noise (0) to
    data (`times` - 1). A time and its blocks are one gene (the published code sorts times at run
    time and lets their blocks fall to other times: not reproduced). Times of a candidate differ;
    its blocks computed in all are at most `budget`. With blocks left out there may be more steps,
    up to `most`. Operators repair what they made until that holds.
    """

    times: int
    steps: int
    blocks: int = 0
    most: int = 0

    def __post_init__(self):
        if not 1 <= self.steps <= self.times:
            raise ValueError(f"steps: {self.steps} of {self.times} times cannot be chosen")

    @property
    def budget(self) -> int:
        """Blocks that may be computed: those of `steps` whole evaluations (N_max)."""
        return self.steps * max(self.blocks, 1)

    def cost(self, candidate: tuple[Step, ...]) -> int:
        """Returns the blocks that a candidate computes."""
        return sum(max(self.blocks, 1) - len(skipped) for _, skipped in candidate)

    def first(self) -> tuple[Step, ...]:
        """Returns evenly spaced times from the first, with the whole network."""
        return tuple((i * self.times // self.steps, ()) for i in range(self.steps))

    def random(self, rng: Rng, share: float) -> tuple[Step, ...]:
        most = max(self.steps, self.most) if self._may_skip(share) else self.steps
        k = int(rng.integers(self.steps, min(most, self.times) + 1))
        times = rng.choice(self.times, k, replace=False)
        return self._repair(rng, [(int(t), self._skips(rng, share)) for t in times], share)

    def mutate(self, rng: Rng, candidate, p: float, share: float) -> tuple[Step, ...]:
        """Each time is replaced with probability p by one that the candidate has not.

        So are, drawn apart, the blocks that a step leaves out.
        """
        taken = {t for t, _ in candidate}
        out = []
        for t, skipped in candidate:
            if rng.random() < p and len(taken) < self.times:
                free = np.setdiff1d(np.arange(self.times), list(taken))
                t = int(rng.choice(free))
                taken.add(t)
            if self._may_skip(share) and rng.random() < p:
                skipped = self._skips(rng, share)
            out.append((t, skipped))
        return self._repair(rng, out, share)

    def cross(self, rng: Rng, a, b, share: float) -> tuple[Step, ...]:
        """Returns a's and b's genes in turn from noise to data, each by a fair coin.

        The tail of one of them, by another coin, where they differ in length.
        """
        out = [x if rng.random() < 0.5 else y for x, y in zip(a, b)]
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            out += longer[len(out) :]
        return self._repair(rng, out, share)

    def all(self) -> Iterator[tuple[Step, ...]]:
        """Yields every choice of `steps` times, with the whole network."""
        for chosen in itertools.combinations(range(self.times), self.steps):
            yield tuple((t, ()) for t in chosen)

    def _may_skip(self, share: float) -> bool:
        return int(share * self.blocks) > 0

    def _skips(self, rng: Rng, share: float) -> tuple[int, ...]:
        """Returns blocks to leave out: a number drawn evenly up to the share, then which."""
        if not self._may_skip(share):
            return ()
        n = int(rng.integers(int(share * self.blocks) + 1))
        return tuple(sorted(int(i) for i in rng.choice(self.blocks, n, replace=False)))

    def _repair(self, rng: Rng, steps: list[Step], share: float) -> tuple[Step, ...]:
        """Returns distinct times within the budget and at least `steps` of them.

        A repeated time becomes another one. Over the budget, a step drawn at random leaves out one
        more block if its share allows, or goes.
        """
        free = set(range(self.times)) - {t for t, _ in steps}
        kept: dict[int, tuple[int, ...]] = {}
        for t, skipped in steps:
            if t in kept:
                if not free:
                    continue
                t = int(rng.choice(sorted(free)))
                free.discard(t)
            kept[t] = skipped
        if not self.blocks:
            return tuple(sorted(kept.items()))
        most = int(share * self.blocks)
        while self.cost(tuple(kept.items())) > self.budget:
            t = int(rng.choice(sorted(kept)))
            left = sorted(set(range(self.blocks)) - set(kept[t]))
            if len(kept[t]) < most:
                kept[t] = tuple(sorted({*kept[t], int(rng.choice(left))}))
            elif len(kept) > self.steps:
                del kept[t]
        return tuple(sorted(kept.items()))


@dataclasses.dataclass(frozen=True)
class StepSpace:
    """The fields of a search over `Schedules`; the legal times are those of the grid `choices`.

    `prune` > 0 searches the blocks to leave out as well.
    """

    steps: int = required("evaluations of the whole network that a candidate may cost")
    choices: int = option(1000, "how many legal times there are")
    grid: Mapping[str, Any] = option({"name": "uniform"}, "the grid on which the legal times lie")
    end: bool = option(False, "also search where the last step ends, not at the grid's end")
    prune: float = option(0.0, "largest part of a step's blocks that may be left out (0: none)")
    most: int = option(0, "most steps where blocks are left out (0: as many as `steps`)")

    def __post_init__(self):
        if self.steps < 1 or self.choices < self.steps:
            raise ValueError(f"steps: {self.steps} of {self.choices} choices cannot be chosen")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune: {self.prune} does not lie in [0, 1)")
        if self.most and self.most < self.steps:
            raise ValueError(f"most: {self.most} is less than steps = {self.steps}")
        if self.end and (self.prune or self.most):
            raise ValueError("end: cannot be searched together with blocks (prune)")

    def bind(self, blocks: int) -> Schedules:
        """Returns the candidates' space for a network of `blocks` blocks."""
        steps = self.steps + self.end  # an end is one more time, that costs nothing
        return Schedules(self.choices, steps, blocks if self.prune else 0, self.most)
