"""Fashion-MNIST from its four idx files, or from a prepared TFDS copy."""

import dataclasses
import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.data.sources import Arrays, Source
from genjax.data.tfds import Tfds, default_folder

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_IMAGES, _LABELS = 0x803, 0x801  # idx magic: unsigned bytes with three axes, with one axis


@dataclasses.dataclass(frozen=True)
class FashionMnist:
    """Zalando's 28 x 28 grey images of clothes, 10 classes: 60,000 train, 10,000 test."""

    split: str = option("train", "train or test")
    path: str = option("", "folder of the four idx files or TFDS folder; empty: look for them")

    def __post_init__(self):
        if self.split not in ("train", "test"):
            raise ValueError(f"split: {self.split!r} is unknown; choose train or test")

    def open(self) -> Source:
        """Returns the source; raises `UserError` that says how to get the files."""
        folder = self.path or (DEBIAN_FOLDER if os.path.isdir(DEBIAN_FOLDER) else "")
        if folder and _file(folder, "train" if self.split == "train" else "t10k", "images-idx3"):
            return _read(folder, self.split)
        tfds_folder = self.path or default_folder()
        if os.path.isdir(os.path.join(tfds_folder, "fashion_mnist")):
            return Tfds("fashion_mnist", self.split, tfds_folder).open()
        raise UserError(
            f"fashion_mnist: no idx files and no prepared TFDS copy in {self.path or tfds_folder}; "
            "run `apt-get install dataset-fashion-mnist` on Debian, or download the four .gz files "
            "and give their folder as the source's `path`, or (extra `tfds`) run "
            "`genjax prepare dataset --source tfds:fashion_mnist --download`"
        )


def _file(folder: str, part: str, kind: str) -> Path | None:
    for suffix in ("", ".gz"):
        path = Path(folder) / f"{part}-{kind}-ubyte{suffix}"
        if path.is_file():
            return path
    return None


def _read(folder: str, split: str) -> Arrays:
    part = "train" if split == "train" else "t10k"
    arrays = []
    for kind, magic in (("images-idx3", _IMAGES), ("labels-idx1", _LABELS)):
        path = _file(folder, part, kind)
        if path is None:
            raise UserError(f"{folder}: {part}-{kind}-ubyte(.gz) is missing; put it there")
        arrays.append(read_idx(path, magic))
    images, labels = arrays
    if len(images) != len(labels):
        raise UserError(
            f"{folder}: {len(images)} images but {len(labels)} labels in split {split}; "
            "copy the files again"
        )
    if not len(images):
        raise UserError(f"{folder}: split {split} holds no images; copy the files again")
    if labels.max() >= len(CLASS_NAMES):
        raise UserError(
            f"{folder}: label {labels.max()} is out of range 0..9; copy the files again"
        )
    return Arrays(images[..., None], labels, CLASS_NAMES, split)


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Returns the uint8 array of an idx file, gzipped or not; `magic` is what it must start with.

    Raises `UserError` naming the file if it is cut off, damaged or something else.
    """
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        (found,) = struct.unpack_from(">I", data)
        axes = magic & 0xFF
        shape = struct.unpack_from(f">{axes}I", data, 4) if found == magic else ()
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path}: damaged ({error}); copy the file again") from error
    if found != magic:
        raise UserError(
            f"{path}: starts with 0x{found:08x}, but this idx file must start with 0x{magic:08x}; "
            "it is another file under that name"
        )
    body = len(data) - 4 - 4 * axes
    if body != np.prod(shape, dtype=np.int64):
        raise UserError(f"{path}: {body} bytes of data for shape {shape}; copy the file again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
