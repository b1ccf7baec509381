"""From captions to token ids: SentencePiece models, trained on a data set's own captions.

Ids: 0 pads, 1 ends the text, 2 stands for what is unknown, which byte fallback makes rare: a letter
that the model has no piece for becomes the pieces of its UTF-8 bytes. Upper case is kept, for
prompts ask for written text.
"""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import Registry, option, required
from genjax.data import files

PAD, EOS, UNKNOWN = 0, 1, 2
MODEL, REPORT = "text.model", "text.json"  # what a folder of `genjax prepare captions` holds


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """Token ids of a SentencePiece model (`genjax prepare captions` trains one)."""

    model: str = required("the model, or the folder that genjax prepare captions wrote")
    length: int = option(128, "ids of an element, the end mark and padding included")

    def __post_init__(self):
        if self.length < 2:
            raise ValueError(f"length must be at least 2, not {self.length}")

    def open(self) -> "Tokenizer":
        """Returns the tokenizer; raises `UserError` where there is no such model."""
        path = self.model
        if not path.endswith(".model"):
            path = files.join(path, MODEL)
        try:
            data = files.read_bytes(path)
        except FileNotFoundError:
            raise UserError(
                f"text.model: {path}: no such file; train one with `genjax prepare captions`"
            ) from None
        return Tokenizer(data, self.length, path)


TEXTS = Registry("text", {"sentencepiece": SentencePiece})


class Tokenizer:
    """Captions as int32 ids [length]. `size`: how many ids there are; may be sent to processes.

    Raises `UserError` naming `path` for a model that is damaged or has other special ids.
    """

    def __init__(self, data: bytes, length: int, path: str = "the text model"):
        import sentencepiece

        self.length = length
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=data)
        except RuntimeError as error:
            raise UserError(f"{path}: is no SentencePiece model; train it again") from error
        found = self._model.pad_id(), self._model.eos_id(), self._model.unk_id()
        if found != (PAD, EOS, UNKNOWN):
            raise UserError(
                f"{path}: pads with {found[0]}, ends with {found[1]}, unknown {found[2]}; genjax "
                f"needs {PAD}, {EOS}, {UNKNOWN}, as `genjax prepare captions` makes them"
            )
        self.size = int(self._model.vocab_size())

    def ids(self, text: str) -> list[int]:
        """Returns the text's ids without end mark, as many as there are."""
        return self._model.encode(text)

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 [length]: the ids, cut to leave room for the end mark, then padding.

        The empty text is the end mark and padding: the null condition.
        """
        out = np.full(self.length, PAD, np.int32)
        ids = self.ids(text)[: self.length - 1]
        out[: len(ids)] = ids
        out[len(ids)] = EOS
        return out

    def encode_batch(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 [n, length]."""
        return np.stack([self.encode(text) for text in texts])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end mark or padding."""
        ids = np.asarray(ids)
        ends = np.flatnonzero((ids == EOS) | (ids == PAD))
        return self._model.decode([int(i) for i in ids[: ends[0] if len(ends) else len(ids)]])


def train(captions: Iterable[str], vocab: int) -> bytes:
    """Returns a SentencePiece model: unigram, NFKC, case kept, byte fallback, one thread.

    The same captions in the same order give the same bytes. `vocab` counts the special ids and the
    256 bytes; few captions make fewer pieces. Raises `UserError` where nothing can be learnt.
    """
    import sentencepiece

    captions = list(captions)
    # Pieces are sought among what two different words share, so a word without relatives in a small
    # vocabulary ("small", but no "smaller") would fall apart into letters. A comma is a relative.
    words = Counter(word for caption in captions for word in caption.split() if word.isalpha())
    relatives = [f"{word}," for word, _ in words.most_common(vocab)]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions + relatives),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="nfkc",
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNKNOWN,
            bos_id=-1,
            max_sentence_length=65536,
            num_threads=1,  # sums over threads would depend on their number
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        line = str(error).strip().splitlines()[-1]
        raise UserError(f"SentencePiece learns nothing from these captions ({line})") from error
    return model.getvalue()


def save(model: bytes, report: dict[str, Any], folder: str) -> None:
    """Writes text.model and text.json into the folder."""
    files.make_folder(folder)
    files.write_bytes(files.join(folder, MODEL), model)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    files.write_bytes(files.join(folder, REPORT), text.encode())
