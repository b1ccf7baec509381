"""What a config says about one stream of batches."""

import dataclasses
from typing import Any

from genjax.core.registry import choice, option
from genjax.data.catalogue import SOURCES
from genjax.data.text import TEXTS


@dataclasses.dataclass(frozen=True)
class StreamSettings:
    """One named stream of batches."""

    source: Any = choice(SOURCES, {"name": "digits"}, "where the elements come from")
    batch: int = option(128, "elements a step over all processes")
    image_size: int | tuple[int, int] | None = option(
        None, "side, or (height, width), of the images; None: as they are"
    )
    crop: str = option("center", "center: scale to cover image_size and crop (ADM); none: refuse")
    channels: int | None = option(None, "1 (grey) or 3 (RGB); None: as they are")
    pad: int = option(0, "pixels of zeros on all four sides, before the crop")
    flip: bool = option(False, "mirror half of the images left to right, by seed")
    shuffle: bool = option(True, "a new order every epoch; False: the order of the source")
    fields: tuple[str, ...] = option(
        (), "what a batch holds; empty: every array of the source, without captions"
    )
    text: Any = choice(TEXTS, None, "captions as the field `tokens`, int32 [length]; None: not")
    threads: int = option(0, "reading threads; 0: one a core, at most 16")
    workers: int = option(0, "reading processes besides; 0: threads only")
    prefetch: int = option(4, "batches ready in advance, at least")

    def __post_init__(self):
        if self.batch < 1 or self.threads < 0 or self.workers < 0 or self.prefetch < 1:
            raise ValueError("batch and prefetch must be >= 1, threads and workers >= 0")
        if self.pad < 0 or (self.size is not None and min(self.size) < 1):
            raise ValueError("image_size must be >= 1 and pad >= 0")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1, 3 or None, not {self.channels}")
        if self.crop not in ("center", "none"):
            raise ValueError(f"crop: {self.crop!r} is unknown; choose center or none")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images, or None."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side
