"""Captions made of class names: the source `captioned`, and which words go with which class."""

import dataclasses
import hashlib
from typing import Any

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.data.array_record import Record
from genjax.data.sources import Source

TEMPLATES = ("{}", "a picture of {}", "this is {}", "an image showing {}")
NAMES = {
    "digits": (
        "the digit zero",
        "the digit one",
        "the digit two",
        "the digit three",
        "the digit four",
        "the digit five",
        "the digit six",
        "the digit seven",
        "the digit eight",
        "the digit nine",
    ),
    "fashion_mnist": (
        "a t-shirt",
        "a pair of trousers",
        "a pullover",
        "a dress",
        "a coat",
        "a sandal",
        "a shirt",
        "a sneaker",
        "a bag",
        "an ankle boot",
    ),
}


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A source with labels, and captions made of its class names by templates.

    Which template an element gets is a function of its index alone.
    """

    source: str | dict[str, Any] = option(
        "digits", "the source with labels: its short form, such as fashion_mnist:test, or a choice"
    )
    templates: tuple[str, ...] = option(TEMPLATES, "captions, with {} for the class's name")
    names: tuple[str, ...] = option(
        (), "names of the classes, articles too; empty: built-in ones, else the source's own"
    )

    def __post_init__(self):
        if not self.templates or any(t.count("{}") != 1 for t in self.templates):
            raise ValueError("templates: give at least one, each with one {} for the name")

    def open(self) -> "CaptionedSource":
        """Returns the source; raises `UserError` for one without labels."""
        from genjax.data.catalogue import open_source, parse_source  # they list this source too

        choice = parse_source(self.source) if isinstance(self.source, str) else self.source
        return CaptionedSource(open_source(choice), self.templates, self.names, choice["name"])


class CaptionedSource(Source):
    """See `Captioned`."""

    def __init__(
        self, source: Source, templates: tuple[str, ...], names: tuple[str, ...], kind: str
    ):
        self._source, self._templates = source, templates
        self.levels, self.split = source.levels, source.split
        self.num_classes, self.class_names = source.num_classes, source.class_names
        if not source.num_classes:
            raise UserError(f"captioned.source: {kind} has no labels to make captions of")
        self.names = names or NAMES.get(kind) or source.class_names
        if len(self.names) != source.num_classes:
            raise UserError(
                f"captioned.names: {len(self.names)} names for {source.num_classes} classes; give "
                "one a class, in the order of the labels"
            )

    def __len__(self) -> int:
        return len(self._source)

    def describe(self, i: int) -> str:
        return self._source.describe(i)

    def caption_of(self, label: int, i: int) -> str:
        """Returns the caption that element i has, were it of this class."""
        toss = hashlib.blake2b(f"template/{i}".encode(), digest_size=4).digest()
        template = self._templates[int.from_bytes(toss) % len(self._templates)]
        return template.format(self.names[label])

    def __getitem__(self, i: int) -> Record:
        record = dict(self._source[i])
        return record | {"caption": self.caption_of(int(record["label"]), i)}
