import sys

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.data import SOURCES, open_source, parse_source
from genjax.data.array_record import Writer, finalise


def test_digits_split_is_fixed_stratified_and_disjoint():
    train, test, everything = (open_source(f"digits:{s}") for s in ("train", "test", "all"))
    assert (len(train), len(test), len(everything)) == (1437, 360, 1797)
    share = np.bincount(test.labels) / np.bincount(everything.labels)
    assert np.all(np.abs(share - 0.2) < 0.01)
    assert train.levels == 17 and train.images.max() == 16 and train.images.dtype == np.uint8
    element = train[3]
    assert element["image"].shape == (8, 8, 1) and element["label"].dtype == np.int32
    # the two parts hold every element of the whole, each once
    key = lambda s: sorted(im.tobytes() + bytes([k]) for im, k in zip(s.images, s.labels))  # noqa: E731
    assert sorted(key(train) + key(test)) == key(everything)
    # fixed for all machines and versions: held-out numbers depend on it
    assert test.labels[:12].tolist() == FIRST_TEST_LABELS


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data, source = load_digits(), open_source("digits:all")
    np.testing.assert_array_equal(source.images[..., 0], data.images)
    np.testing.assert_array_equal(source.labels, data.target)


FIRST_TEST_LABELS = [9, 2, 5, 7, 6, 9, 7, 3, 3, 3, 4, 6]


def test_synthetic_is_a_function_of_the_index_and_shows_its_class():
    source = SOURCES.build({"name": "synthetic", "shape": (16, 12, 3), "classes": 4}).open()
    again = SOURCES.build({"name": "synthetic", "shape": (16, 12, 3), "classes": 4}).open()
    assert np.array_equal(source[1023]["image"], again[1023]["image"])
    assert source[6]["label"] == 2 and source[6]["caption"] == "waves in direction 2"
    assert not np.array_equal(source[0]["image"], source[4]["image"])
    assert np.ptp(source[0]["image"], axis=0).max() == 0  # direction 0: waves along x alone
    clip = SOURCES.build({"name": "synthetic", "shape": (5, 8, 8, 1)}).open()[0]["image"]
    assert clip.shape == (5, 8, 8, 1) and clip.dtype == np.uint8


def test_array_record_source_carries_its_metadata(tmp_path):
    meta = {"levels": 17, "num_classes": 3, "class_names": ["a", "b", "c"], "split": "train"}
    with Writer(str(tmp_path / "set"), meta) as writer:
        for i in range(3):
            writer.write({"moments": np.full((2, 2, 8), i, np.float32), "label": np.int32(i)})
    finalise(str(tmp_path / "set"), 1, meta)
    source = open_source(f"array_record:{tmp_path / 'set'}")
    assert (len(source), source.levels, source.num_classes, source.split) == (3, 17, 3, "train")
    assert source.class_names == ("a", "b", "c") and source[2]["moments"].mean() == 2
    with Writer(str(tmp_path / "bare")) as writer:
        writer.write({"label": np.int32(0)})
    finalise(str(tmp_path / "bare"), 1)
    with pytest.raises(UserError, match="num_classes"):
        open_source(f"array_record:{tmp_path / 'bare'}")
    Writer(str(tmp_path / "none")).close()
    finalise(str(tmp_path / "none"), 1)
    with pytest.raises(UserError, match="holds no records"):
        open_source(f"array_record:{tmp_path / 'none'}")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("digits", {"name": "digits"}),
        ("digits:test", {"name": "digits", "split": "test"}),
        ("fashion_mnist:test", {"name": "fashion_mnist", "split": "test"}),
        ("tfds:cifar10", {"name": "tfds", "dataset": "cifar10"}),
        ("tfds:cifar10:3.0.2", {"name": "tfds", "dataset": "cifar10:3.0.2"}),
        ("tfds:a/b:test[:9]", {"name": "tfds", "dataset": "a/b", "split": "test[:9]"}),
        ("tfds:a:1.0.0:test", {"name": "tfds", "dataset": "a:1.0.0", "split": "test"}),
        ("image_folder:/a:b", {"name": "image_folder", "path": "/a:b"}),
        ("array_record:gs://x/y", {"name": "array_record", "path": "gs://x/y"}),
        ("synthetic", {"name": "synthetic"}),
    ],
)
def test_short_forms(text, choice):
    assert parse_source(text) == choice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagenet", "'imagenet' is no source"),
        ("synthetic:3", "colon"),
        ("image_folder:", "colon"),
        ("image_folder", "source.path: this key must be given"),
        ("digits:dev", "source: split: 'dev' is unknown"),
        ("fashion_mnist:dev", "'dev' is unknown"),
        ("tfds:nothing_prepared", "not prepared in"),
        ("array_record:/nowhere/at/all", "no such folder"),
        ("image_folder:/nowhere/at/all", "no such folder"),
        ("image_folder:s4://bucket/x", "s4"),
    ],
)
def test_wrong_short_forms_are_one_line(text, words):
    with pytest.raises(UserError) as error:
        open_source(text)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_importing_the_room_loads_nothing_heavy():
    import subprocess

    code = (
        "import sys, genjax.data, genjax.data.report, genjax.data.array_record; "
        "print([m for m in ('tensorflow', 'torch', 'grain', 'matplotlib', 'sklearn', "
        "'tensorflow_datasets', 'PIL', 'fsspec') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
