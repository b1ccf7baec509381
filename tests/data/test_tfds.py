"""A prepared TFDS copy is built here by hand: preparing one properly needs TensorFlow."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from genjax.core.errors import UserError
from genjax.data import SOURCES, Corrupt, open_source
from genjax.data import tfds as tfds_source

NAME = "fashion_mnist"


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes([n])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(png, label):
    """A tf.train.Example: map from feature name to a bytes list (1) or an int64 list (3)."""
    features = (
        message(1, message(1, b"image") + message(2, message(1, message(1, png)))),
        message(1, message(1, b"label") + message(2, message(3, message(1, varint(label))))),
    )
    return message(1, b"".join(features))


def png(value):
    """A constant picture; None: one of noise, cut off in the middle."""
    pixels = np.random.RandomState(0).randint(0, 256, (28, 28)).astype(np.uint8)
    if value is not None:
        pixels[:] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = buffer.getvalue()
    return data if value is not None else data[: len(data) // 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    root = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder(NAME, data_dir=str(root), file_format="array_record")
    path = root / NAME / str(builder.version)
    path.mkdir(parents=True)
    splits = []
    for split, values in (("train", (10, 20, 30)), ("test", (40, None))):
        template = tfds.core.ShardedFileTemplate(
            dataset_name=NAME, data_dir=path, filetype_suffix="array_record", split=split
        )
        info = tfds.core.SplitInfo(
            name=split, shard_lengths=[len(values)], num_bytes=1, filename_template=template
        )
        splits.append(info)
        name = f"{NAME}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path / name), "group_size:1")
        for i, value in enumerate(values):
            writer.write(example(png(value), i))
        writer.close()
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(path)
    return str(root)


def test_reads_a_prepared_copy_without_tensorflow(folder):
    source = SOURCES.build({"name": "tfds", "dataset": NAME, "data_dir": folder}).open()
    assert len(source) == 3 and source.num_classes == 10 and source.class_names[9] == "Ankle boot"
    element = source[2]
    assert element["image"].shape == (28, 28, 1) and element["image"].dtype == np.uint8
    assert element["image"].mean() == 30 and element["label"] == 2
    assert element["label"].dtype == np.int32
    assert "tensorflow" not in sys.modules


def test_captions_in_a_sequence_are_a_line_each(tmp_path):
    """COCO's layout: captions = Sequence({id, text}), no label."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    def of_bytes(*values):
        return message(1, b"".join(message(1, v) for v in values))

    def of_ints(*values):
        return message(3, message(1, b"".join(varint(v) for v in values)))

    texts = (b"A man\nrides.", "Ein Käfer.".encode())
    values = {
        b"image": of_bytes(png(70)),
        b"captions/id": of_ints(7, 8),
        b"captions/text": of_bytes(*texts),
    }
    row = b"".join(message(1, message(1, k) + message(2, v)) for k, v in values.items())
    path = tmp_path / "pictures" / "1.0.0"
    path.mkdir(parents=True)
    writer = ArrayRecordWriter(
        str(path / "pictures-train.array_record-00000-of-00001"), "group_size:1"
    )
    writer.write(message(1, row))
    writer.close()
    text = {"id": tfds.features.Scalar(np.int64), "text": tfds.features.Text()}
    tfds.folder_dataset.write_metadata(
        data_dir=str(path),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "captions": tfds.features.Sequence(text),
            }
        ),
        split_infos=[tfds.core.SplitInfo(name="train", shard_lengths=[1], num_bytes=1)],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,  # which needs TensorFlow
    )
    choice = {"name": "tfds", "dataset": "pictures", "data_dir": str(tmp_path), "label": ""}
    record = open_source({**choice, "caption": "captions/text"})[0]
    assert record["caption"] == "A man rides.\nEin Käfer." and "label" not in record
    with pytest.raises(UserError, match="no feature 'texts/a'"):
        open_source({**choice, "caption": "texts/a"})


def test_fashion_mnist_finds_the_tfds_copy(folder, monkeypatch):
    source = open_source({"name": NAME, "path": folder, "split": "test"})
    assert source[0]["image"].mean() == 40
    monkeypatch.setenv("TFDS_DATA_DIR", folder)
    assert len(open_source(f"tfds:{NAME}:train[:2]")) == 2


def test_a_damaged_picture_is_corrupt_not_fatal(folder):
    source = open_source({"name": "tfds", "dataset": NAME, "data_dir": folder, "split": "test"})
    with pytest.raises(Corrupt, match=r"test\[1\]"):
        source[1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"split": "dev"}, "dev"),
        ({"label": "class"}, "no feature 'class'; it has image, label"),
        ({"label": "image"}, "no class label"),
        ({"dataset": "mnist"}, "not prepared in"),
    ],
)
def test_mistakes_are_one_line(folder, fields, words):
    choice = {"name": "tfds", "dataset": NAME, "data_dir": folder} | fields
    with pytest.raises(UserError) as error:
        open_source(choice)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_preparing_without_tensorflow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="extra `tfds`"):
        tfds_source.prepare("mnist")
