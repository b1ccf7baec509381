"""Prompts to draw: PartiPrompts, which comes with genjax, files of prompts, captions of sources.

PartiPrompts (P2) is by Jiahui Yu et al., Google Research (arXiv 2206.10789), Apache License 2.0; it
is unmodified, and its licence lies beside it.
"""

import dataclasses
import os
from pathlib import Path

from genjax.core.errors import UserError
from genjax.data import files
from genjax.data.catalogue import SOURCES, open_source

PARTI = "partiprompts"
_PARTI_FILE = Path(__file__).with_name("PartiPrompts.tsv")
_COLUMNS = ["Prompt", "Category", "Challenge", "Note"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text to draw; the rest is "" where nobody said it."""

    text: str
    category: str = ""
    challenge: str = ""
    note: str = ""


def parti_prompts() -> tuple[Prompt, ...]:
    """Returns the 1,632 prompts of PartiPrompts with their categories, challenges and notes."""
    return _table(_PARTI_FILE.read_bytes().decode(), str(_PARTI_FILE))


def read_prompts(spec: str, most: int | None = None) -> tuple[Prompt, ...]:
    """Returns at most `most` prompts.

    `spec`: "partiprompts"; a file (also gs://), with a prompt a line, or a .tsv table with the
    columns Prompt, Category, Challenge, Note; or a source such as shapes:heldout, whose captions
    are taken in its order. Raises `UserError` where there are none.
    """
    kind = spec.partition(":")[0]
    if spec == PARTI:
        found = parti_prompts()
    elif kind in SOURCES.entries and not os.path.exists(spec):
        source = open_source(spec)
        count = len(source) if most is None else min(most, len(source))
        captions = [source.caption(i) for i in range(count)]
        if any(c is None for c in captions):
            raise UserError(f"prompts: {spec} has no captions; choose a source that has")
        found = tuple(Prompt(str(c).split("\n")[0]) for c in captions)
    else:
        try:
            text = files.read_bytes(spec).decode()
        except FileNotFoundError:
            raise UserError(
                f"prompts: {spec}: no such file; give a file with a prompt a line, {PARTI}, or a "
                "source such as shapes:heldout"
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(f"prompts: {spec}: is not UTF-8 text ({error})") from error
        if spec.endswith(".tsv"):
            found = _table(text, spec)
        else:
            found = tuple(Prompt(line) for line in text.splitlines() if line.strip())
    if not found:
        raise UserError(f"prompts: {spec}: holds no prompts; write one a line")
    return found if most is None else found[:most]


def _table(text: str, path: str) -> tuple[Prompt, ...]:
    """Reads tab-separated lines with quoting off: some prompts begin with a quotation mark."""
    head, *rows = text.removesuffix("\n").split("\n")
    if head.rstrip("\r").split("\t") != _COLUMNS:
        raise UserError(f"prompts: {path}: the first line must be the columns {_COLUMNS}, by tabs")
    prompts = []
    for number, row in enumerate(rows, 2):
        cells = row.rstrip("\r").split("\t")
        if len(cells) != len(_COLUMNS):
            raise UserError(
                f"prompts: {path}, line {number}: {len(cells)} columns instead of {len(_COLUMNS)}"
            )
        prompts.append(Prompt(*cells))
    return tuple(prompts)
