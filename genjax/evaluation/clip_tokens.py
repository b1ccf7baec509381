"""CLIP's text tokens: byte pairs of lower-case text, from the file of merges that goes with it."""

import html
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from genjax.core.errors import UserError

_END = "</w>"  # marks the last piece of a word
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_MERGES = 49152 - 256 - 2  # of the public file, as many as are used


def byte_symbols() -> dict[int, str]:
    """Returns byte -> printable character: itself where it is one, others from U+0100 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(others)}


class Tokenizer:
    """Captions -> int32 [n, length]: start, pieces, end, and the end again as padding."""

    def __init__(self, merges: Sequence[tuple[str, str]]):
        symbols = byte_symbols()
        alphabet = list(symbols.values())
        words = [*alphabet, *(s + _END for s in alphabet), *(a + b for a, b in merges)]
        self.ids = {word: i for i, word in enumerate(words)}
        self.start, self.end = len(words), len(words) + 1
        self._symbols, self._rank = symbols, {pair: i for i, pair in enumerate(merges)}

    @classmethod
    def read(cls, path: str | Path) -> "Tokenizer":
        """Returns the tokenizer of a `merges.txt`: a header, then two symbols a line."""
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as merges ({error})") from error
        pairs = [tuple(line.split()) for line in lines[1 : _MERGES + 1] if line.strip()]
        if not pairs or any(len(p) != 2 for p in pairs):
            raise UserError(f"{path}: expected a header and two symbols a line; take merges.txt")
        return cls([(a, b) for a, b in pairs])

    def __call__(self, captions: Sequence[str], length: int) -> np.ndarray:
        """Returns the tokens; longer captions lose their end but not the end token."""
        out = np.full((len(captions), length), self.end, np.int32)
        for row, caption in zip(out, captions):
            ids = [self.start, *self.encode(caption)][: length - 1]
            row[: len(ids)] = ids
        return out

    def encode(self, text: str) -> list[int]:
        """Returns the pieces of a text without start and end."""
        text = " ".join(html.unescape(html.unescape(text)).split()).lower()
        return [self.ids[piece] for word in _words(text) for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        parts = [self._symbols[b] for b in word.encode("utf-8")]
        parts[-1] += _END
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self._rank.get(pair, len(self._rank)))
            if best not in self._rank:
                break
            merged, i = [], 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return parts


def _words(text: str) -> Iterator[str]:
    """Yields contractions, runs of letters, single digits, and runs of anything else."""
    i = 0
    while i < len(text):
        if text[i].isspace():
            i += 1
            continue
        contraction = next((c for c in _CONTRACTIONS if text.startswith(c, i)), None)
        if contraction:
            yield contraction
            i += len(contraction)
            continue
        kind, j = _kind(text[i]), i + 1
        while kind != "N" and j < len(text) and _kind(text[j]) == kind:
            j += 1
        yield text[i:j]
        i = j


def _kind(character: str) -> str:
    if character.isspace():
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "other"
