"""Learning-rate schedules: what multiplies the learning rate after so many images.

All lengths are in images, so that another batch size keeps them. `images` counts those seen
before the update: with a warm-up the first update has rate 0, as EDM's.
"""

import dataclasses
import math

from genjax.core.arrays import namespace
from genjax.core.registry import Registry, option


def _ramp(images, length: float):
    """Returns min(images / length, 1), or 1 where there is no ramp."""
    xp = namespace(images)
    return xp.minimum(images / length, 1.0) if length > 0 else xp.ones_like(images)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Warm-up, a shape, and a cool-down."""

    warmup: float = option(0.0, "images over which the rate rises linearly from 0")
    cooldown: float = option(0.0, "images at the end over which the rate falls linearly to 0")

    def __post_init__(self):
        if self.warmup < 0 or self.cooldown < 0:
            raise ValueError("warmup and cooldown count images and must not be negative")

    def shape(self, images, total: float):
        """Returns the multiplier without warm-up and cool-down."""
        raise NotImplementedError

    def __call__(self, images, total: float):
        """Returns the multiplier in [0, 1] after `images` (host or traced floats) of `total`."""
        xp = namespace(images)
        left = xp.maximum(total - images, 0.0)
        return self.shape(images, total) * _ramp(images, self.warmup) * _ramp(left, self.cooldown)

    def decayed(self, images, total: float):
        """Returns how much of the time between warm-up and end is over, in [0, 1]."""
        length = max(total - self.warmup, 1.0)
        return namespace(images).clip((images - self.warmup) / length, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """1 throughout."""

    def shape(self, images, total: float):
        return namespace(images).ones_like(images)


@dataclasses.dataclass(frozen=True)
class Final(Schedule):
    """A shape that ends at `final` with the last image."""

    final: float = option(0.0, "multiplier at the end")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is a share of the peak rate, in [0, 1], not {self.final}")


@dataclasses.dataclass(frozen=True)
class Cosine(Final):
    """Half a cosine from 1, after the warm-up, to `final`."""

    def shape(self, images, total: float):
        wave = (1.0 + namespace(images).cos(math.pi * self.decayed(images, total))) / 2.0
        return self.final + (1.0 - self.final) * wave


@dataclasses.dataclass(frozen=True)
class Linear(Final):
    """A straight line from 1, after the warm-up, to `final`."""

    def shape(self, images, total: float):
        return 1.0 - (1.0 - self.final) * self.decayed(images, total)


@dataclasses.dataclass(frozen=True)
class RSqrt(Schedule):
    """sqrt(T / (T + n)) with n the images after the warm-up and T the time scale."""

    timescale: float = option(1e7, "images after which the decay sets in")

    def __post_init__(self):
        super().__post_init__()
        if self.timescale <= 0:
            raise ValueError("timescale counts images and must be positive")

    def shape(self, images, total: float):
        xp = namespace(images)
        return xp.sqrt(self.timescale / (self.timescale + xp.maximum(images - self.warmup, 0.0)))


@dataclasses.dataclass(frozen=True)
class InverseTime(Schedule):
    """max(images / reference, 1)^-power: EDM2's decay for power 1/2."""

    reference: float = option(1e7, "images up to which the multiplier is 1")
    power: float = option(0.5, "exponent of the decay after that")

    def __post_init__(self):
        super().__post_init__()
        if self.reference <= 0 or self.power < 0:
            raise ValueError("reference must be positive, and power not negative")

    def shape(self, images, total: float):
        return namespace(images).maximum(images / self.reference, 1.0) ** -self.power


@dataclasses.dataclass(frozen=True)
class Exponential(Final):
    """1 until `hold` or the warm-up is over, then exponentially down to `final` (Parti)."""

    final: float = option(0.025, "multiplier at the end, above 0")
    hold: float = option(0.0, "images, the warm-up's among them, after which the decay begins")

    def __post_init__(self):
        super().__post_init__()
        if self.final <= 0 or self.hold < 0:
            raise ValueError("final must be above 0, and hold not negative")

    def shape(self, images, total: float):
        xp = namespace(images)
        start = max(self.hold, self.warmup)
        return self.final ** xp.clip((images - start) / max(total - start, 1.0), 0.0, 1.0)


SCHEDULES = Registry(
    "learning-rate schedule",
    {
        "constant": Constant,
        "cosine": Cosine,
        "linear": Linear,
        "exponential": Exponential,
        "rsqrt": RSqrt,
        "inverse_time": InverseTime,
    },
)
