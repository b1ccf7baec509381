"""Sources, transforms, text, prompts, the grain pipeline, ArrayRecord folders, first-batch report.

Nothing here imports TensorFlow; grain, Pillow, scikit-learn, SentencePiece and TFDS load when first
used.
"""

from genjax.data.catalogue import SOURCES, open_source, parse_source
from genjax.data.pipeline import (
    Stream,
    open_once,
    open_stream,
)
from genjax.data.prompts import Prompt, read_prompts
from genjax.data.settings import StreamSettings
from genjax.data.sources import Corrupt, Source
from genjax.data.text import TEXTS, Tokenizer

__all__ = [
    "SOURCES",
    "TEXTS",
    "Corrupt",
    "Prompt",
    "Source",
    "Stream",
    "StreamSettings",
    "Tokenizer",
    "open_once",
    "open_source",
    "open_stream",
    "parse_source",
    "read_prompts",
]
