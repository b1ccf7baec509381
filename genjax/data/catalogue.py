"""The sources by name, and their short forms for the command line."""

import re
from collections.abc import Mapping
from typing import Any

from genjax.core.errors import UserError
from genjax.core.registry import Registry
from genjax.data.captions import Captioned
from genjax.data.fashion_mnist import FashionMnist
from genjax.data.image_folder import ImageFolder
from genjax.data.shapes import Shapes
from genjax.data.sources import ArrayRecordFolder, Digits, Source, Synthetic
from genjax.data.tfds import Tfds

SOURCES = Registry(
    "source",
    {
        "digits": Digits,
        "fashion_mnist": FashionMnist,
        "tfds": Tfds,
        "image_folder": ImageFolder,
        "array_record": ArrayRecordFolder,
        "synthetic": Synthetic,
        "shapes": Shapes,
        "captioned": Captioned,
    },
)

_AFTER_COLON = {
    "digits": "split",
    "fashion_mnist": "split",
    "tfds": "dataset",
    "image_folder": "path",
    "array_record": "path",
    "shapes": "split",
    "captioned": "source",
}


def parse_source(text: str) -> dict[str, Any]:
    """Returns the choice that a short form stands for.

    `digits`, `digits:test`, `fashion_mnist:test`, `tfds:NAME`, `tfds:NAME:SPLIT`,
    `image_folder:PATH`, `array_record:PATH`, `synthetic`, `shapes:heldout`,
    `captioned:fashion_mnist:test`.
    """
    name, colon, rest = text.partition(":")
    if name not in SOURCES.entries:
        raise UserError(
            f"{text}: {name!r} is no source; choose one of {sorted(SOURCES.entries)}, "
            "such as image_folder:PATH"
        )
    if not colon:
        return {"name": name}
    if name not in _AFTER_COLON or not rest:
        raise UserError(f"{text}: nothing may follow, or something is missing after, the colon")
    named = re.fullmatch(r"([^:]+(?::\d+\.\d+\.\d+)?):(.+)", rest)  # NAME[:VERSION]:SPLIT
    if name == "tfds" and named and not re.fullmatch(r"[^:]+:\d+\.\d+\.\d+", rest):
        return {"name": name, "dataset": named[1], "split": named[2]}
    return {"name": name, _AFTER_COLON[name]: rest}


def open_source(source: str | Mapping[str, Any]) -> Source:
    """Returns the opened source of a short form or of a choice; raises `UserError`."""
    choice = parse_source(source) if isinstance(source, str) else source
    return SOURCES.build(choice, "source").open()
