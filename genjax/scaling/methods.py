"""How a space is searched: evolution (AutoDiffusion's), random candidates, or all of them.

`run(space, fitness, rng, note)` yields after every round the ranking so far: pairs (fitness,
candidate), the smallest fitness first. Given equal fitness values the course is a function of the
random numbers alone, so that a search that was cut off repeats it from the values it remembers.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from genjax.core.registry import Registry, option
from genjax.scaling.spaces import Rng, Space

Fitness = Callable[[Any], float]
Ranking = list[tuple[float, Any]]
_ATTEMPTS = 10  # tries for a new candidate, over how many are wanted


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Elites, mutants, crossings and fresh candidates (AutoDiffusion, section 3.2 and 4.1).

    The first population is the candidate that a person would try, random ones up to half, and
    mutants of the first. Every generation keeps the `elites` best of all seen (they are not
    evaluated again) and makes mutants and crossings of them and fresh ones up to `population`.
    Where blocks are left out, generations up to `whole` do so nowhere; after them the largest share
    rises to `prune` in five generations.
    """

    population: int = option(50, "candidates of a generation")
    elites: int = option(10, "candidates that mutants and crossings come from")
    mutants: int = option(25, "mutants a generation")
    crossings: int = option(15, "crossings a generation")
    generations: int = option(10, "generations after the first population")
    mutation: float = option(0.25, "probability that a gene mutates")
    first_mutation: float = option(0.1, "the same for mutants in the first population")
    whole: int = option(5, "generations that leave out no blocks")

    def __post_init__(self):
        if min(self.population, self.elites) < 1 or min(self.mutants, self.crossings) < 0:
            raise ValueError("population and elites are at least 1, mutants and crossings 0")
        if self.mutants + self.crossings > self.population:
            raise ValueError("population: is less than mutants + crossings")
        if not (0 <= self.mutation <= 1 and 0 <= self.first_mutation <= 1):
            raise ValueError("mutation and first_mutation lie in [0, 1]")
        if self.generations < 0 or self.whole < 0:
            raise ValueError("generations and whole are at least 0")

    def share(self, generation: int, prune: float) -> float:
        """Returns the largest share of blocks left out in a generation (0: the first)."""
        return prune * min(max(generation - self.whole, 0), 5) / 5

    def run(
        self, space: Space, fitness: Fitness, rng: Rng, prune: float = 0.0
    ) -> Iterator[Ranking]:
        """Yields the ranking of all candidates seen, after every generation."""
        seen: dict[Any, float] = {}
        fresh = self._first(space, rng, self.share(0, prune))
        for generation in itertools.count(1):
            seen |= {candidate: float(fitness(candidate)) for candidate in fresh}
            yield _ranked(seen)
            if generation > self.generations:
                return
            fresh = self._next(space, rng, seen, self.share(generation, prune))

    def _first(self, space: Space, rng: Rng, share: float) -> dict[Any, None]:
        """Returns the first population."""
        start = space.first()
        made = {start: None}
        half = self.population // 2 + 1 - len(made)
        made |= _new(made, half, lambda: space.random(rng, share))
        rest = self.population - len(made)
        mutation = self.first_mutation
        return made | _new(made, rest, lambda: space.mutate(rng, start, mutation, share))

    def _next(self, space: Space, rng: Rng, seen: dict, share: float) -> dict[Any, None]:
        """Returns the next generation's new candidates, none of which is `seen`."""
        elites = [candidate for _, candidate in _ranked(seen)[: self.elites]]

        def pick():
            return elites[int(rng.integers(len(elites)))]

        made = _new(seen, self.mutants, lambda: space.mutate(rng, pick(), self.mutation, share))
        made |= _new(seen | made, self.crossings, lambda: space.cross(rng, pick(), pick(), share))
        rest = self.population - len(made)
        return made | _new(seen | made, rest, lambda: space.random(rng, share))


@dataclasses.dataclass(frozen=True)
class Random:
    """Random candidates: what a search must beat."""

    candidates: int = option(550, "how many")

    def __post_init__(self):
        if self.candidates < 1:
            raise ValueError("candidates: at least 1")

    def run(
        self, space: Space, fitness: Fitness, rng: Rng, prune: float = 0.0
    ) -> Iterator[Ranking]:
        """Yields the ranking after every fifty candidates, and at the end."""
        seen: dict[Any, float] = {}
        wanted = _new(seen, self.candidates, lambda: space.random(rng, prune))
        for number, candidate in enumerate(wanted, 1):
            seen[candidate] = float(fitness(candidate))
            if number % 50 == 0 or number == len(wanted):
                yield _ranked(seen)


@dataclasses.dataclass(frozen=True)
class Exhaustive:
    """All candidates of a space: for a product of short lists."""

    def run(
        self, space: Space, fitness: Fitness, rng: Rng, prune: float = 0.0
    ) -> Iterator[Ranking]:
        """Yields one ranking, of all."""
        del rng, prune
        yield _ranked({candidate: float(fitness(candidate)) for candidate in space.all()})


def _new(seen: dict, wanted: int, make: Callable[[], Any]) -> dict[Any, None]:
    """Returns up to `wanted` candidates, in order, that are not `seen` (a space may be small)."""
    out: dict[Any, None] = {}
    for _ in range(_ATTEMPTS * wanted):
        if len(out) == wanted:
            break
        candidate = make()
        if candidate not in seen:
            out[candidate] = None
    return out


def _ranked(seen: dict[Any, float]) -> Ranking:
    # Values that are not finite go last; ties keep the order in which they were seen.
    pairs = [(value, candidate) for candidate, value in seen.items()]
    return sorted(pairs, key=lambda pair: pair[0] if np.isfinite(pair[0]) else np.inf)


METHODS = Registry(
    "search method", {"evolution": Evolution, "random": Random, "exhaustive": Exhaustive}
)
