"""A folder of pictures: a class a folder, or one JSONL; captions beside the pictures or in it."""

import dataclasses
import json
import os
from pathlib import PurePosixPath

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import required
from genjax.data import files
from genjax.data.array_record import Record
from genjax.data.sources import Corrupt, Source, decode_image

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Pictures under one folder, in alphabetical order of their paths.

    Labels: the first folder level (sorted names are classes 0, 1, ...); none where the pictures
    lie directly in the folder. Captions: a .txt beside every picture, several on a line each. Or
    one .jsonl in the folder says everything: a line {"file": ..., "caption": text or list of texts,
    "label": number or name} a picture.
    """

    path: str = required("the folder, also gs://...")

    def open(self) -> "ImageFolderSource":
        return ImageFolderSource(self.path)


class ImageFolderSource(Source):
    """See `ImageFolder`. Lists the files when opened; pictures are read and decoded when asked."""

    def __init__(self, path: str):
        if not files.exists(path):
            raise UserError(f"{path}: no such folder; correct the path of the image folder")
        self._path = path
        names = _list(path)
        lists = [n for n in names if n.endswith(".jsonl") and "/" not in n]
        if len(lists) > 1:
            raise UserError(f"{path}: several .jsonl files ({', '.join(lists)}); leave one")
        self._captions: list[str] | None = None
        self._texts = False
        self._labels: np.ndarray | None = None
        if lists:
            self._from_jsonl(lists[0], set(names))
        else:
            self._from_folders(names)

    def _from_folders(self, names: list[str]) -> None:
        pictures = [n for n in names if n.lower().endswith(_SUFFIXES)]
        if not pictures:
            raise UserError(f"{self._path}: holds no pictures ({', '.join(_SUFFIXES)}); fill it")
        folders = {n.split("/")[0] for n in pictures if "/" in n}
        if folders and any("/" not in n for n in pictures):
            raise UserError(
                f"{self._path}: pictures lie both directly in it and in the class folders "
                f"{sorted(folders)[:3]}; move them into a class folder"
            )
        self._files = pictures
        if folders:
            self.class_names = tuple(sorted(folders))
            self.num_classes = len(folders)
            number = {name: k for k, name in enumerate(self.class_names)}
            self._labels = np.array([number[n.split("/")[0]] for n in pictures], np.int32)
        texts = {n for n in names if n.endswith(".txt")}
        with_text = [_text_of(n) in texts for n in pictures]
        if any(with_text) and not all(with_text):
            lonely = pictures[with_text.index(False)]
            raise UserError(f"{self._path}: {lonely} has no caption {_text_of(lonely)}; write it")
        self._texts = any(with_text)

    def _from_jsonl(self, name: str, names: set[str]) -> None:
        where = files.join(self._path, name)
        rows = []
        for number, line in enumerate(files.read_bytes(where).decode().splitlines(), 1):
            if line.strip():
                rows.append(_row(line, f"{where}, line {number}", names))
        if not rows:
            raise UserError(f"{where}: names no pictures; add lines or delete the file")
        self._files = [row["file"] for row in rows]
        for key in ("caption", "label"):
            count = sum(key in row for row in rows)
            if count not in (0, len(rows)):
                raise UserError(f"{where}: only {count} of {len(rows)} lines have a {key}")
        if "caption" in rows[0]:
            self._captions = [row["caption"] for row in rows]
        if "label" in rows[0]:
            labels = [row["label"] for row in rows]
            if all(isinstance(label, str) for label in labels):
                self.class_names = tuple(sorted(set(labels)))
                labels = [self.class_names.index(label) for label in labels]
            elif not all(isinstance(label, int) for label in labels):
                raise UserError(f"{where}: labels are numbers in some lines and names in others")
            self._labels = np.array(labels, np.int32)
            self.num_classes = int(self._labels.max()) + 1

    def __len__(self) -> int:
        return len(self._files)

    def describe(self, i: int) -> str:
        return self._files[i]

    def __getitem__(self, i: int) -> Record:
        name = self._files[i]
        path = files.join(self._path, name)
        try:
            data = files.read_bytes(path)
        except FileNotFoundError as error:  # other read errors pass, and do not change the data
            raise Corrupt(f"{path}: gone since the folder was listed") from error
        record: Record = {"image": decode_image(data, path)}
        if self._labels is not None:
            record["label"] = self._labels[i]
        caption = self.caption(i)
        return record if caption is None else record | {"caption": caption}

    def caption(self, i: int) -> str | None:
        if self._captions is not None:
            return self._captions[i]
        if not self._texts:
            return None
        text = files.read_bytes(files.join(self._path, _text_of(self._files[i])))
        return text.decode("utf-8", "replace").strip()


def _row(line: str, where: str, names: set[str]) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("file"), str):
        raise UserError(f'{where}: needs {{"file": "name.png", ...}}')
    if row["file"] not in names:
        raise UserError(f"{where}: no file {row['file']!r} in the folder; correct the line")
    if "caption" in row:
        texts = [row["caption"]] if isinstance(row["caption"], str) else row["caption"]
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts) or not texts:
            raise UserError(f"{where}: the caption must be a string or a list of strings")
        # A caption of a list is a line of the field, so it has no lines of its own.
        row["caption"] = "\n".join(" ".join(t.split()) for t in texts) if texts[1:] else texts[0]
    label = row.get("label", 0)
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise UserError(f"{where}: the label must be a number or a name")
    if isinstance(label, int) and not 0 <= label < 2**31:
        raise UserError(f"{where}: label {label} is out of range; labels count from 0")
    return row


def _text_of(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".txt"))


def _list(path: str) -> list[str]:
    """Returns the names of all files below `path`, sorted, relative to it."""
    if files.is_remote(path):
        fs, root = files.store(path)
        return sorted(n[len(root.rstrip("/")) + 1 :] for n in fs.find(root))
    names = []
    for folder, _, found in os.walk(path, followlinks=True):
        below = os.path.relpath(folder, path).replace(os.sep, "/")
        names += found if below == "." else [f"{below}/{n}" for n in found]
    return sorted(names)
