"""Sets of uint8 images with labels, from memory, `.npz` files or folders; read in blocks."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from genjax.core.errors import UserError
from genjax.evaluation.files import read_npz

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """`size` images of one `shape` (h, w, c), read by `read(indices) -> uint8 [b, h, w, c]`.

    `read_labels()` gives int [size] or None, `read_captions()` as many strings or None; `name` is
    how reports call the set, `made` how its pixels came to be 0..255 ("" where they were stored
    that way).
    """

    name: str
    size: int
    shape: tuple[int, ...]
    read: Callable[[np.ndarray], np.ndarray]
    read_labels: Callable[[], np.ndarray | None] = lambda: None
    made: str = ""
    read_captions: Callable[[], Sequence[str] | None] = lambda: None

    @cached_property
    def labels(self) -> np.ndarray | None:
        return self.read_labels()

    @cached_property
    def captions(self) -> Sequence[str] | None:
        return self.read_captions()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of name, size, shape and up to 256 evenly spaced images with every pixel.

        It notices other data under the same name without reading all of it.
        """
        h = hashlib.sha256(f"{self.name}|{self.size}|{self.shape}|{self.made}".encode())
        for i in np.unique(np.linspace(0, self.size - 1, min(self.size, 256)).astype(int)):
            h.update(self.read(np.asarray([i])).tobytes())
        return h.hexdigest()

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first index, images [<= rows, h, w, c]) in order."""
        for start in range(0, self.size, rows):
            yield start, self.read(np.arange(start, min(start + rows, self.size)))

    def take(self, indices: np.ndarray) -> "ImageSet":
        """Returns the set of these images, in this order, under the same name."""
        indices = np.asarray(indices)

        def labels():
            return None if self.labels is None else self.labels[indices]

        def captions():
            return None if self.captions is None else [self.captions[i] for i in indices]

        return dataclasses.replace(
            self,
            size=len(indices),
            read=lambda i: self.read(indices[i]),
            read_labels=labels,
            read_captions=captions,
        )

    def with_captions(self, read_captions: Callable[[], Sequence[str] | None]) -> "ImageSet":
        """Returns the set with these captions, `size` of them; they are read when asked for."""

        def checked():
            found = read_captions()
            if found is not None and len(found) != self.size:
                raise UserError(f"{self.name}: has {len(found)} captions for {self.size} images")
            return found

        return dataclasses.replace(self, read_captions=checked)


def of_arrays(name: str, images: np.ndarray, labels: np.ndarray | None = None, made: str = ""):
    """Returns the `ImageSet` of uint8 images [n, h, w, c]; `UserError` for anything else."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"{name}: expected uint8 images [N, H, W, C] with C = 1 or 3, found "
            f"{images.dtype} {list(images.shape)}"
        )
    if len(images) == 0:
        raise UserError(f"{name}: holds no images")
    if labels is not None and (
        labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise UserError(
            f"{name}: {len(images)} images need as many integer labels, found "
            f"{labels.dtype} {list(labels.shape)}"
        )
    return ImageSet(name, len(images), images.shape[1:], lambda i: images[i], lambda: labels, made)


def open_samples(path: str | Path) -> ImageSet:
    """Returns the images of a `.npz` (`arr_0`; labels in `arr_1` or `labels`) or of a folder.

    An .npz may hold `captions`, an array of strings.
    """
    if Path(path).is_dir():
        return open_folder(path)
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file or folder; give a .npz or a folder of PNGs")
    data = read_npz(path)
    if "arr_0" not in data:
        raise UserError(
            f"{path}: images are expected under the key arr_0; this file has {sorted(data)}"
        )
    found = of_arrays(str(path), data["arr_0"], data.get("labels", data.get("arr_1")))
    if "captions" not in data:
        return found
    return found.with_captions(lambda: [str(c) for c in data["captions"]])


def open_folder(path: str | Path) -> ImageSet:
    """Returns the images of a folder, in the order of their names.

    Labels are the lines of `labels.txt` in it, which `genjax sample` writes, captions those of
    `captions.txt`; else there are none.
    """
    files = sorted(p for p in Path(path).iterdir() if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise UserError(f"{path}: holds no images ({', '.join(_SUFFIXES)})")
    sizes: dict[tuple[int, ...], Path] = {}
    for file in files:
        sizes.setdefault(_header(file), file)
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise UserError(
            f"{path}: images of several sizes ({first.name} is {a[1]}x{a[0]}x{a[2]}, {second.name} "
            f"is {b[1]}x{b[0]}x{b[2]}); resize them to one size first"
        )
    return ImageSet(
        str(path),
        len(files),
        next(iter(sizes)),
        lambda indices: np.stack([_pixels(files[i]) for i in indices]),
        lambda: _labels(Path(path) / "labels.txt", len(files)),
    ).with_captions(lambda: _captions(Path(path) / "captions.txt"))


def noise(shape: tuple[int, ...], size: int, seed: int) -> ImageSet:
    """Returns `size` images of independent uniform pixels: the worst that a sampler can do.

    Image i depends on the seed and i alone, so nothing is held in memory.
    """

    def read(indices: np.ndarray) -> np.ndarray:
        draws = (np.random.default_rng((seed, int(i))) for i in indices)
        return np.stack([rng.integers(0, 256, shape, np.uint8) for rng in draws])

    return ImageSet("uniform noise", size, shape, read)


def to_uint8(images: np.ndarray, levels: int) -> np.ndarray:
    """Returns grey values 0 .. levels-1 as 0 .. 255: round(v 255 / (levels - 1))."""
    if levels == 256:
        return images
    return np.rint(images.astype(np.float64) * (255.0 / (levels - 1))).astype(np.uint8)


def _labels(file: Path, count: int) -> np.ndarray | None:
    if not file.is_file():
        return None
    try:
        labels = np.asarray([int(line) for line in file.read_text().split()])
    except ValueError as error:
        raise UserError(f"{file}: expected an integer a line ({error})") from error
    if len(labels) != count:
        raise UserError(f"{file}: has {len(labels)} labels for {count} images; write one a line")
    return labels


def _captions(file: Path) -> list[str] | None:
    return file.read_text("utf-8").splitlines() if file.is_file() else None


def _header(file: Path) -> tuple[int, int, int]:
    try:
        with Image.open(file) as image:
            return image.height, image.width, 1 if image.mode in ("L", "1") else 3
    except OSError as error:
        raise UserError(f"{file}: is no readable image ({error}); remove or replace it") from error


def _pixels(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            gray = image.mode in ("L", "1")
            pixels = np.asarray(image.convert("L" if gray else "RGB"), np.uint8)
    except OSError as error:
        raise UserError(f"{file}: is no readable image ({error}); remove or replace it") from error
    return pixels[..., None] if gray else pixels
