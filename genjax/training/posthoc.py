"""Power-function averages and their reconstruction after training (Karras et al. 2024, EDM2).

An average of width sigma_rel has the profile p(t') ~ t'^gamma over the images t' in [0, t]; its
relative standard deviation is sigma_rel. Profiles of stored averages are combined, in the least
squares sense, into a profile of another width. Float64 on the host throughout.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from genjax.core.arrays import Tree
from genjax.core.errors import UserError

SIGMA_REL_LIMIT = 1 / math.sqrt(12)  # gamma = 0: the plain mean of all steps


def gamma_of(sigma_rel: float) -> float:
    """Returns the exponent gamma > 0 of the width sigma_rel in (0, 1/sqrt(12)).

    The largest root of g^3 + 7 g^2 + (16 - s) g + (12 - s) = 0 with s = sigma_rel^-2.
    """
    if not 0 < sigma_rel < SIGMA_REL_LIMIT:
        raise ValueError(
            f"the width of a power-function EMA lies between 0 and {SIGMA_REL_LIMIT:.4f}, "
            f"not at {sigma_rel}"
        )
    s = float(sigma_rel) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - s, 12.0 - s])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-6 * abs(root.real)))


def sigma_rel_of(gamma: float) -> float:
    """Returns sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))), the inverse of `gamma_of`."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which average a tree is: after how many images it was taken, and its width sigma_rel."""

    images: float
    sigma_rel: float

    def __post_init__(self):
        if self.images <= 0:
            raise ValueError(f"an average covers a positive number of images, not {self.images}")
        gamma_of(self.sigma_rel)

    def metadata(self) -> dict[str, float]:
        """Returns what to store beside a snapshot (JSON)."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> "Profile":
        """Returns the profile that `metadata` describes."""
        return cls(float(metadata["images"]), float(metadata["sigma_rel"]))


def profile(sigma_rel: float, images: float) -> Profile:
    """Returns the profile of a power-function average of width `sigma_rel` after `images`."""
    return Profile(float(images), float(sigma_rel))


def inner(a: Sequence[Profile], b: Sequence[Profile]) -> np.ndarray:
    """Returns the integrals of p_i p_j over time: float64 [len(a), len(b)], per image.

    <p_a, p_b> = (ga + 1)(gb + 1) (ta / tb)^e / ((ga + gb + 1) max(ta, tb)), with e = gb where
    ta < tb, else -ga.
    """
    ta, tb = (np.array([p.images for p in x], np.float64) for x in (a, b))
    ga, gb = (np.array([gamma_of(p.sigma_rel) for p in x], np.float64) for x in (a, b))
    ta, ga = ta[:, None], ga[:, None]
    exponent = np.where(ta < tb, gb, -ga)
    scale = (ga + 1) * (gb + 1) / ((ga + gb + 1) * np.maximum(ta, tb))
    return scale * np.exp(exponent * np.log(ta / tb))


def raw_weights(snapshots: Sequence[Profile], target: Profile) -> np.ndarray:
    """Returns the least-squares weights of the snapshots, float64 [n], not yet normalised.

    Their sum is near 1 where the snapshots can represent the target. Raises `UserError` if there
    is no snapshot, one is there twice, or the target lies after the last.
    """
    if not snapshots:
        raise UserError(
            "no EMA snapshots to reconstruct from; train with power-function EMAs and "
            "checkpoint.ema_every_images > 0"
        )
    if len(set(snapshots)) != len(snapshots):
        raise UserError("an EMA snapshot is there twice (same images and width); remove one")
    last = max(p.images for p in snapshots)
    if target.images > last:
        raise UserError(
            f"an EMA at {target.images:.0f} images cannot be reconstructed from snapshots that "
            f"end at {last:.0f}"
        )
    return np.linalg.solve(inner(snapshots, snapshots), inner(snapshots, [target])[:, 0])


def weights(snapshots: Sequence[Profile], target: Profile) -> np.ndarray:
    """Returns the weights of the snapshots, float64 [n], divided by their sum."""
    raw = raw_weights(snapshots, target)
    return raw / raw.sum()


def reconstruct(
    snapshots: Iterable[tuple[Profile, Tree]], profiles: Sequence[Profile], target: Profile
) -> Tree:
    """Returns the average of the width and time of `target`: float32 NumPy arrays.

    `profiles`: those of all snapshots; `snapshots`: (profile, tree) in any order, read one at a
    time, so that only one needs to be in memory beside the sum. Raises as `raw_weights`.
    """
    share = dict(zip(profiles, weights(profiles, target)))
    total = None
    for one, tree in snapshots:
        weight = share.pop(one)
        scaled = jax.tree.map(lambda x, w=weight: w * np.asarray(x, np.float64), tree)
        total = scaled if total is None else jax.tree.map(np.add, total, scaled)
    if share:
        raise UserError(f"{len(share)} EMA snapshots are listed but were not read")
    return jax.tree.map(lambda x: x.astype(np.float32), total)
