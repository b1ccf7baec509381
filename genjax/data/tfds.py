"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import dataclasses
import os
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option, required
from genjax.data.array_record import Record
from genjax.data.sources import Corrupt, Source


def default_folder() -> str:
    """Returns where TFDS keeps its data sets."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A TFDS data set prepared in the ArrayRecord format (`genjax prepare dataset --download`)."""

    dataset: str = required("TFDS name, such as imagenet2012 or smallnorb:2.0.0")
    split: str = option("train", "split, TFDS slices such as train[:1%] too")
    data_dir: str = option("", "folder of the TFDS data sets; empty: TFDS_DATA_DIR or the default")
    image: str = option("image", "feature that holds the image")
    label: str = option("label", "class feature; empty: no labels")
    caption: str = option("", "text feature, such as captions/text (COCO); empty: no captions")

    def open(self) -> "TfdsSource":
        """Returns the source; raises `UserError` if it is unknown, unprepared, or has no split."""
        return TfdsSource(self)


class TfdsSource(Source):
    """See `Tfds`."""

    def __init__(self, settings: Tfds):
        import tensorflow_datasets as tfds

        folder = settings.data_dir or default_folder()
        name = settings.dataset
        if not os.path.isdir(os.path.join(folder, name.split(":")[0].split("/")[0])) and (
            "://" not in folder
        ):
            raise UserError(
                f"tfds:{name}: not prepared in {folder}; give data_dir, or (extra `tfds`) run "
                f"`genjax prepare dataset --source tfds:{name} --download`"
            )
        try:
            builder: Any = tfds.builder(name, data_dir=folder, file_format="array_record")
            info = builder.info
            self._data = builder.as_data_source(split=settings.split)
        except Exception as error:
            # TFDS raises its own and built-in errors of many kinds, all about the same input.
            line = str(error).strip().splitlines()
            raise UserError(
                f"tfds:{name}, split {settings.split!r}, in {folder}: "
                f"{line[0] if line else type(error).__name__}"
            ) from error
        self._name, self._settings = name, settings
        self.split = settings.split
        features = info.features or {}
        for key in (settings.image, settings.label, settings.caption):
            if key and key.split("/")[0] not in features:
                raise UserError(
                    f"tfds:{name}: no feature {key!r}; it has {', '.join(sorted(features))}; set "
                    "image, label and caption of the source (empty: none)"
                )
        if settings.label:
            feature = features[settings.label]
            self.num_classes = getattr(feature, "num_classes", None) or 0
            if not self.num_classes:
                raise UserError(f"tfds:{name}: feature {settings.label!r} is no class label")
            self.class_names = tuple(feature.names)

    def __len__(self) -> int:
        return len(self._data)

    def describe(self, i: int) -> str:
        return f"tfds:{self._name} {self.split}[{i}]"

    def __getitem__(self, i: int) -> Record:
        try:
            row = self._data[i]
        except (OSError, ValueError, SyntaxError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # reading failed, which must not change the data
            raise Corrupt(f"{self.describe(i)}: {error}") from error
        record: Record = {"image": np.asarray(row[self._settings.image])}
        if self._settings.label:
            record["label"] = np.int32(row[self._settings.label])
        if self._settings.caption:
            record["caption"] = "\n".join(_texts(row, self._settings.caption.split("/")))
        return record


def _texts(value: Any, path: list[str]) -> list[str]:
    """Returns all strings under the path of nested features; sequences are lists or arrays."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [text for item in value for text in _texts(item, path)]
    if path:
        return _texts(value[path[0]], path[1:])
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return [" ".join(text.split())]


def prepare(dataset: str, data_dir: str = "") -> str:
    """Downloads and prepares a TFDS data set as ArrayRecord, and returns its folder.

    The only thing in genjax that needs TensorFlow (extra `tfds`); raises `UserError` without it.
    """
    try:
        import tensorflow  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "--download: preparing a TFDS data set needs TensorFlow; install the extra `tfds` "
            "(reading it later does not)"
        ) from error
    import tensorflow_datasets as tfds

    folder = data_dir or default_folder()
    try:
        builder = tfds.builder(dataset, data_dir=folder, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"tfds:{dataset}: {line}; correct the name") from error
    builder.download_and_prepare()
    return str(builder.data_path)
