"""From an index to the element that a batch holds.

In this order: corrupt elements replaced; the mirrored variant NAME_flip chosen; one of several
captions taken, and turned into tokens; grey or RGB; padding; crop; flip.
"""

import hashlib
from math import gcd

import numpy as np

from genjax.core.errors import UserError
from genjax.data import transforms
from genjax.data.array_record import Record
from genjax.data.settings import StreamSettings
from genjax.data.sources import Corrupt, Source

REPLACED = "_replaced"  # index of the element that was asked for and could not be decoded, or -1
Spec = dict[str, tuple[tuple[int, ...], str]]  # field -> (shape, dtype) of an element

_TRIES = 256


class Loader:
    """(j, index) -> the transformed element; checks that all elements have one form."""

    def __init__(
        self, source: Source, settings: StreamSettings, name: str, seed: int, mask_from=None
    ):
        self.source, self.settings, self.seed = source, settings, seed
        self._name, self._mask_from = name, mask_from
        self._tokenizer = None if settings.text is None else settings.text.open()
        if not len(source):
            raise UserError(f"data.{name}.source: holds no elements; fill it")
        if settings.flip:
            self._check_flip(self._read(0)[0])
        self.spec: Spec = {}
        first = self((0, 0))
        del first[REPLACED]
        self.spec = {k: form_of(v) for k, v in first.items()}

    def __call__(self, row: tuple[int, int]) -> Record:
        j, index = row
        record, used = self._read(index)
        out = self._transform(record, used, j)
        if self._mask_from is not None:
            out["mask"] = np.bool_(j < self._mask_from)
        self._check(out, used)
        out[REPLACED] = np.int64(-1 if used == index else index)
        return out

    def _check_flip(self, record: Record) -> None:
        wanted = self.settings.fields or record
        if not any(k == "image" or f"{k}_flip" in record for k in wanted):
            raise UserError(
                f"data.{self._name}.flip: there is nothing to mirror; set it to False, or prepare "
                "the data with --flip"
            )

    def _read(self, index: int) -> tuple[Record, int]:
        """Returns the element and its index, that of a deterministic other one if it is corrupt."""
        n, used = len(self.source), index
        step = 1 + (0x9E3779B1 * (index + 1)) % n  # a spread-out walk that meets all n elements
        while gcd(step, n) > 1:
            step += 1
        for _ in range(min(n, _TRIES)):
            try:
                return self.source[used], used
            except Corrupt as error:
                last = error
                used = (used + step) % n
        raise UserError(
            f"data.{self._name}.source: {min(n, _TRIES)} elements tried and all are corrupt, such "
            f"as {last}; mend the files"
        )

    def _transform(self, record: Record, index: int, j: int) -> Record:
        settings, source = self.settings, self.source
        mirrored = settings.flip and self._coin(j)
        out = {k: v for k, v in record.items() if not k.endswith("_flip")}
        if mirrored:
            out |= {k[:-5]: v for k, v in record.items() if k.endswith("_flip")}
        if "caption" in out:
            out["caption"] = self._caption(out["caption"], j)
        if self._tokenizer is not None:
            if "caption" not in out:
                raise UserError(
                    f"data.{self._name}.text: {source.describe(index)} has no caption to make "
                    "tokens of; choose a source with captions, such as captioned, or text = None"
                )
            out["tokens"] = self._tokenizer.encode(out["caption"])
        wanted = settings.fields or [k for k, v in out.items() if not isinstance(v, str)]
        missing = [k for k in wanted if k not in out]
        if missing:
            raise UserError(
                f"data.{self._name}.fields: {missing[0]!r} is not in {source.describe(index)}, "
                f"which has {', '.join(out)}; correct the fields"
            )
        if "label" in out and not 0 <= out["label"] < source.num_classes:
            raise UserError(
                f"data.{self._name}.source: {source.describe(index)} has label {out['label']}, out "
                f"of range 0..{source.num_classes - 1}; mend the data"
            )
        out = {k: out[k] for k in wanted}
        if "image" in out:
            has_variant = "image_flip" in record
            out["image"] = self._image(out["image"], mirrored and not has_variant, index)
        return out

    def _caption(self, caption: str, j: int) -> str:
        """Returns one of the captions, a line each: the first where every element is read once."""
        lines = [line.strip() for line in caption.split("\n") if line.strip()] or [""]
        if len(lines) == 1 or self._mask_from is not None:
            return lines[0]
        digest = hashlib.blake2b(f"{self.seed}/caption/{j}".encode(), digest_size=4).digest()
        return lines[int.from_bytes(digest) % len(lines)]

    def _coin(self, j: int) -> bool:
        text = f"{self.seed}/flip/{j}".encode()
        return bool(hashlib.blake2b(text, digest_size=1).digest()[0] & 1)

    def _image(self, image: np.ndarray, mirrored: bool, index: int) -> np.ndarray:
        settings = self.settings
        if settings.channels is not None:
            image = transforms.to_channels(image, settings.channels)
        if settings.pad:
            image = transforms.pad(image, settings.pad)
        if settings.size is not None and image.shape[-3:-1] != settings.size:
            if settings.crop == "none" or image.ndim != 3:
                raise UserError(
                    f"data.{self._name}: {self.source.describe(index)} is {image.shape}, not of "
                    f"image_size {settings.size}; set crop to center, or prepare the data set"
                )
            image = transforms.center_crop(image, *settings.size, self.source.levels)
        return transforms.flip(image) if mirrored else image

    def _check(self, out: Record, index: int) -> None:
        for key, (shape, dtype) in self.spec.items():
            if form_of(out[key]) != (shape, dtype):
                form, what = form_of(out[key]), self.source.describe(index)
                raise UserError(
                    f"data.{self._name}: {key} of {what} is {form[1]} {form[0]} where the first "
                    f"is {dtype} {shape}; set image_size and channels, or prepare the data set"
                )


def form_of(value) -> tuple[tuple[int, ...], str]:
    """Returns (shape, dtype name) of an array, ((), "str") of a string."""
    return ((), "str") if isinstance(value, str) else (value.shape, value.dtype.name)
