"""Sources, transforms, the grain pipeline, ArrayRecord folders and the first-batch report.

Nothing here imports TensorFlow; grain, Pillow, scikit-learn and TFDS load when first used.
"""

from genjax.data.catalogue import SOURCES, open_source, parse_source
from genjax.data.pipeline import (
    Stream,
    open_once,
    open_stream,
)
from genjax.data.settings import StreamSettings
from genjax.data.sources import Corrupt, Source

__all__ = [
    "SOURCES",
    "Corrupt",
    "Source",
    "Stream",
    "StreamSettings",
    "open_once",
    "open_source",
    "open_stream",
    "parse_source",
]
