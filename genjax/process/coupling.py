"""Which noise goes with which data: `sample(key, x0, batch) -> (x0, eps)`."""

import abc
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.errors import UserError
from genjax.core.registry import Registry, option


class Coupling(abc.ABC):
    """The joint law of data and noise; subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def sample(self, key: Array, x0: Array, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """Returns (x0, eps), both float32 [b, ...]; `batch` is the stream that x0 came from."""


@dataclasses.dataclass(frozen=True)
class Independent(Coupling):
    """Standard normal noise, independent of the data."""

    def sample(self, key, x0, batch):
        return x0, jax.random.normal(key, x0.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Paired(Coupling):
    """The noise that the stream carries beside each image (reflow pairs of a teacher's ODE)."""

    field: str = option("noise", "the stream's field that holds the noise, shaped like the data")

    def sample(self, key, x0, batch):
        if self.field not in batch:
            raise UserError(
                f"coupling.field: the stream has no {self.field!r}, it has {sorted(batch)}; "
                "make pairs first or name the field that holds the noise"
            )
        eps = jnp.asarray(batch[self.field], jnp.float32)
        if eps.shape != x0.shape:
            raise UserError(
                f"coupling.field: {self.field!r} has shape {eps.shape} but the data have {x0.shape}"
            )
        return x0, eps


COUPLINGS = Registry("coupling", {"independent": Independent, "paired": Paired})
