"""How long collectives take on a torus of chips, by an explicit model.

A collective between n devices that ends with V bytes on each (all-gather), or begins with V on
each (reduce-scatter), brings V (n - 1) / n to every device; the device with the fewest links is
the slowest. An all-reduce is both. These are the bandwidth-optimal figures that "How to Scale Your
Model" (jax-ml.github.io/scaling-book, part 3) derives, with its latency of a microsecond a hop;
contention between collectives that run at once is left out. Rates: see `chips`.
"""

import dataclasses
from functools import cached_property

import numpy as np

from genjax.parallel.chips import Chip

HOP = 1e-6  # seconds
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Fabric:
    """The devices of a mesh, in its order: `coords` [n, dims] within a slice, `slices` [n].

    `bounds`: length of every physical dimension; `mesh`: (axis, size) in the mesh's order.
    """

    chip: Chip
    coords: np.ndarray
    slices: np.ndarray
    bounds: tuple[int, ...]
    mesh: tuple[tuple[str, int], ...]

    @cached_property
    def rings(self) -> tuple[bool, ...]:
        """Which physical dimensions close into a ring: of whole cubes, or of a pod's full side."""
        ring = self.chip.ring
        real = [n for n in self.bounds if n > 1]
        closed = [n % ring == 0 and n > 2 for n in self.bounds]
        whole = ring == 16 or (all(n % ring == 0 for n in real) and len(real) == 3)
        return tuple(c and whole for c in closed)

    def axes(self, groups: np.ndarray) -> str:
        """Returns the mesh axes along which the members of a group (or a pair) differ."""
        names, sizes = zip(*self.mesh)
        index = np.stack(np.unravel_index(groups, sizes))  # [axis, groups, members]
        spread = (index != index[..., :1]).any(axis=(1, 2))
        return "+".join(name for name, differs in zip(names, spread) if differs) or "none"

    def sent(self, kind: str, size: float, n: int) -> float:
        """Returns the bytes a device sends: of V = `size` bytes (see the module), n devices."""
        if kind == "collective-permute":
            return size
        return size * (n - 1) / n * (2 if kind == "all-reduce" else 1)

    def seconds(self, kind: str, size: float, groups: np.ndarray) -> float:
        """Returns the time of a collective of V = `size` bytes (permutations: bytes sent)."""
        if kind == "collective-permute":
            return self._permute(size, groups)
        n = groups.shape[1]
        if n < 2:
            return 0.0
        return max(self._group(kind, size, group) for group in groups[: self._enough(groups)])

    def _enough(self, groups: np.ndarray) -> int:
        """How many groups to look at: regular ones are translations of each other."""
        return min(len(groups), 8)

    def _group(self, kind: str, size: float, group: np.ndarray) -> float:
        n, passes = len(group), 2 if kind == "all-reduce" else 1
        slices = len(np.unique(self.slices[group]))
        inside = n // slices
        time = 0.0
        if slices > 1:
            if kind == "all-to-all":
                time = size * (slices - 1) / slices / self.chip.dcn
            else:  # a slice's devices share what crosses
                time = passes * size * (slices - 1) / slices / (inside * self.chip.dcn)
        if inside < 2:
            return time
        coords = self.coords[group[self.slices[group] == self.slices[group[0]]]]
        lengths = [len(np.unique(coords[:, d])) for d in range(coords.shape[1])]
        spanned = [d for d, length in enumerate(lengths) if length > 1]
        if not spanned:  # two devices of one chip
            return time + size / self.chip.link
        closed = [self.rings[d] and lengths[d] == self.bounds[d] for d in spanned]
        links = sum(2 if ring else 1 for ring in closed)
        hops = sum(lengths[d] // 2 if ring else lengths[d] - 1 for d, ring in zip(spanned, closed))
        if kind == "all-to-all":
            d, ring = max(zip(spanned, closed), key=lambda pair: lengths[pair[0]])
            cut = max(inside // lengths[d], 1) * (2 if ring else 1)
            return time + size * inside / 4 / (cut * self.chip.link) + hops * HOP
        own = size * (inside - 1) / inside / (links * self.chip.link)
        return time + passes * (own + hops * HOP)

    def _permute(self, size: float, pairs: np.ndarray) -> float:
        """The busiest link of dimension-ordered shortest routes decides."""
        crossing = self.slices[pairs[:, 0]] != self.slices[pairs[:, 1]]
        time = size / self.chip.dcn if crossing.any() else 0.0
        load: dict[tuple, int] = {}
        far = 0
        for source, target in pairs[~crossing]:
            hops = self._route(self.coords[source], self.coords[target])
            far = max(far, len(hops))
            for hop in hops:
                hop = (self.slices[source], *hop)
                load[hop] = load.get(hop, 0) + 1
        return max(time, max(load.values(), default=0) * size / self.chip.link + far * HOP)

    def _route(self, source: np.ndarray, target: np.ndarray) -> list[tuple]:
        at, hops = [int(x) for x in source], []
        for d, end in enumerate(int(x) for x in target):
            n, distance = self.bounds[d], abs(end - at[d])
            step = 1 if end > at[d] else -1
            if self.rings[d] and n - distance < distance:
                distance, step = n - distance, -step
            for _ in range(distance):
                hops.append((*at, d, step))
                at[d] = (at[d] + step) % n
        return hops


def fabric(chip: Chip, mesh) -> Fabric:
    """Returns the fabric of a mesh of TPU devices (which know their coordinates)."""
    devices = list(mesh.devices.flat)
    coords = np.array([getattr(d, "coords", (d.id, 0, 0)) for d in devices])
    coords = coords - coords.min(axis=0)
    slices = np.array([getattr(d, "slice_index", 0) for d in devices])
    bounds = tuple(int(n) + 1 for n in coords.max(axis=0))
    return Fabric(chip, coords, slices, bounds, tuple(mesh.shape.items()))
