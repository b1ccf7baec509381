import gzip
import os
import struct

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.data import open_source
from genjax.data.fashion_mnist import DEBIAN_FOLDER


def idx(array, magic):
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def folder(path, packed=True, n=5, **changes):
    path.mkdir()
    images = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2)
    content = {
        "train-images-idx3-ubyte": idx(images, 0x803),
        "train-labels-idx1-ubyte": idx(np.arange(n, dtype=np.uint8) % 10, 0x801),
    } | {k.replace("_", "-"): v for k, v in changes.items()}
    for name, data in content.items():
        if packed:
            (path / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (path / name).write_bytes(data)
    return {"name": "fashion_mnist", "path": str(path)}


@pytest.mark.parametrize("packed", [True, False])
def test_reads_idx_files_packed_or_not(tmp_path, packed):
    source = open_source(folder(tmp_path / "f", packed))
    assert len(source) == 5 and source.num_classes == 10 and source.class_names[8] == "bag"
    assert source[3]["image"].tolist() == [[[12], [13]], [[14], [15]]] and source[3]["label"] == 3


@pytest.mark.skipif(not os.path.isdir(DEBIAN_FOLDER), reason="Debian's package is not installed")
def test_finds_debians_package_by_itself():
    train, test = open_source("fashion_mnist"), open_source("fashion_mnist:test")
    assert (len(train), len(test)) == (60000, 10000)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert abs(train.images[:1000].mean() - 73) < 2  # 0.286 of 255, the data set's known mean


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_labels_idx1_ubyte": idx(np.zeros(4, np.uint8), 0x801)}, "5 images but 4 labels"),
        ({"train_labels_idx1_ubyte": idx(np.full(5, 10, np.uint8), 0x801)}, "label 10 is out of"),
        ({"train_labels_idx1_ubyte": idx(np.zeros(5, np.uint8), 0x803)}, "starts with 0x00000803"),
        ({"train_images_idx3_ubyte": b"\0\0\x08\x03"}, "damaged"),
        (
            {"train_images_idx3_ubyte": idx(np.zeros((5, 2, 2), np.uint8), 0x803)[:-1]},
            "19 bytes of data for shape (5, 2, 2)",
        ),
        ({"n": 0}, "holds no images"),
    ],
)
def test_damage_is_named(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        open_source(folder(tmp_path / "f", **changes))
    assert words in str(error.value) and str(tmp_path) in str(error.value)


def test_cut_off_gzip_and_missing_files(tmp_path):
    choice = folder(tmp_path / "f")
    images = tmp_path / "f" / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        open_source(choice)
    (tmp_path / "f" / "train-labels-idx1-ubyte.gz").unlink()
    images.write_bytes(gzip.compress(idx(np.zeros((1, 2, 2), np.uint8), 0x803)))
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\(.gz\) is missing"):
        open_source(choice)
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        open_source({"name": "fashion_mnist", "path": str(tmp_path)})
