"""What a source of data is, and the sources that need no files.

The registered dataclasses describe a source in a config; their `open()` returns a `Source`, which
has random access to elements: dicts of numpy arrays (and strings).
"""

import dataclasses
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option, required
from genjax.data.array_record import Reader, Record


class Corrupt(Exception):
    """An element cannot be decoded; the pipeline takes a deterministic other one and counts it."""


class Source:
    """Random access to elements: `source[i]` -> {"image": uint8 [h, w, c], "label": int32, ...}.

    Fields, where the source has them: `image` (values 0 .. levels - 1), `label` (int32 scalar),
    `caption` (str; a line each where there are several for one element), and others under the
    names they were written with, such as `moments`.
    `levels`: grey levels of images; `num_classes`: 0 without labels; `class_names`: by label, may
    be empty; `split`: the part of the data set, for reports.
    `source[i]` raises `Corrupt` for an element that cannot be decoded.
    """

    levels: int = 256
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    split: str = ""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, i: int) -> Record:
        raise NotImplementedError

    def describe(self, i: int) -> str:
        """Returns what a person would call element i: its file, say."""
        return f"element {i}"

    def caption(self, i: int) -> str | None:
        """Returns the captions of element i, a line each, without decoding its image if it can."""
        return self[i].get("caption")


class Arrays(Source):
    """A source whose images [n, h, w, c] uint8 and labels [n] lie in memory."""

    def __init__(self, images, labels, class_names: Sequence[str], split: str, levels: int = 256):
        self.images, self.labels = np.asarray(images, np.uint8), np.asarray(labels, np.int32)
        self.class_names, self.num_classes = tuple(class_names), len(class_names)
        self.split, self.levels = split, levels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Record:
        return {"image": self.images[i], "label": self.labels[i]}


def decode_image(data: bytes, what: str) -> np.ndarray:
    """Returns the file's picture as uint8 RGB [h, w, 3], upright, transparency over white.

    Raises `Corrupt` naming `what` if the bytes are no complete picture.
    """
    from PIL import Image, ImageOps

    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if image.mode.startswith("I"):  # 16-bit grey: Pillow's conversion clips instead of scaling
            return np.repeat(
                (np.asarray(image, np.uint32) // 257).astype(np.uint8)[..., None], 3, 2
            )
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))
    except (Exception, Image.DecompressionBombError) as error:
        # Pillow's decoders raise nearly everything on damaged files (SyntaxError, struct.error...).
        raise Corrupt(f"{what}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits: [8, 8, 1], 17 levels, 1,437 train and 360 test.

    The split is stratified and fixed: every fifth element in the order of class, then of one
    fixed permutation, is a test element.
    """

    split: str = option("train", "train, test or all")

    def __post_init__(self):
        if self.split not in ("train", "test", "all"):
            raise ValueError(f"split: {self.split!r} is unknown; choose train, test or all")

    def open(self) -> Arrays:
        # The file that load_digits reads; importing scikit-learn was a sixth of a run's start-up.
        found = importlib.util.find_spec("sklearn")
        if found is None or found.origin is None:
            raise UserError("digits: scikit-learn, which holds them, is not installed; install it")
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        table = np.loadtxt(path, np.uint8, delimiter=",")
        images, labels = table[:, :64].reshape(-1, 8, 8, 1), table[:, 64].astype(np.int64)
        # RandomState's stream is frozen by numpy's promise; Generator's may change.
        order = np.random.RandomState(0).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        test = np.arange(len(order)) % 5 == 0
        keep = {"train": ~test, "test": test, "all": test | True}[self.split]
        rows = np.sort(order[keep])
        return Arrays(images[rows], labels[rows], [str(d) for d in range(10)], self.split, 17)


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Waves whose direction is their class: element i is a function of i alone.

    For tests, benchmarks and dry runs. Captions say the class.
    """

    shape: tuple[int, ...] = option((32, 32, 3), "shape of an element, such as height, width, 3")
    classes: int = option(10, "number of classes")
    size: int = option(1024, "number of elements")

    def __post_init__(self):
        if len(self.shape) < 3 or min(self.shape) < 1 or self.classes < 1 or self.size < 1:
            raise ValueError(
                "synthetic needs shape of at least three axes, classes >= 1, size >= 1"
            )

    def open(self) -> "SyntheticSource":
        return SyntheticSource(self)


class SyntheticSource(Source):
    """See `Synthetic`."""

    def __init__(self, settings: Synthetic):
        self._shape, self._size = settings.shape, settings.size
        self.num_classes = settings.classes
        self.class_names = tuple(f"direction {k}" for k in range(settings.classes))
        h, w = self._shape[-3:-1]
        self._y, self._x = np.meshgrid(np.arange(h) / h, np.arange(w) / w, indexing="ij")

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Record:
        label = i % self.num_classes
        rng = np.random.RandomState(i % 2**32)
        angle = np.pi * label / self.num_classes
        phase = rng.uniform(0, 2 * np.pi, (*self._shape[:-3], 1, 1, self._shape[-1]))
        along = self._x * np.cos(angle) + self._y * np.sin(angle)
        wave = np.sin(2 * np.pi * 3 * along[..., None] + phase)
        image = np.round(127.5 + 100 * wave).astype(np.uint8)
        caption = f"waves in direction {label}"
        return {"image": image, "label": np.int32(label), "caption": caption}


@dataclasses.dataclass(frozen=True)
class ArrayRecordFolder:
    """A folder written by `genjax prepare`: images, latent moments, tokens, whatever it holds."""

    path: str = required("the folder, also gs://...")

    def open(self) -> "ArrayRecordSource":
        return ArrayRecordSource(self.path)


class ArrayRecordSource(Source):
    """See `ArrayRecordFolder`; the writer's metadata gives levels, classes and the split."""

    def __init__(self, path: str):
        self._reader = Reader(path)
        if not len(self._reader):
            raise UserError(f"{path}: holds no records; prepare it again")
        meta = self._reader.meta
        if "label" in self._reader.fields and not meta.get("num_classes"):
            raise UserError(
                f"{path}: has labels but its index.json says no meta.num_classes; add it"
            )
        self.meta, self.path = meta, path
        self.levels, self.num_classes = meta.get("levels", 256), meta.get("num_classes", 0)
        self.class_names, self.split = tuple(meta.get("class_names", ())), meta.get("split", "")

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, i: int) -> Record:
        try:
            return self._reader[i]
        except UserError as error:
            raise Corrupt(str(error)) from error

    def describe(self, i: int) -> str:
        return f"{self.path}, record {i}"
