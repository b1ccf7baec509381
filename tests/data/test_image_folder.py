import json

import fsspec
import numpy as np
import pytest
from PIL import Image

from genjax.core.errors import UserError
from genjax.data import Corrupt, StreamSettings, open_source, open_stream
from genjax.data.image_folder import ImageFolder


def picture(path, value=100, size=(6, 4), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("L", "I;16", "1", "P") else (value, 50, 0, 128)[: len(mode)]
    Image.new(mode, size, color).save(path, **options)


def classes(root):
    for k, name in enumerate(("cat", "ant", "bee")):
        for i in range(3):
            picture(root / name / f"{i}.png", 10 * k + i)
    return str(root)


def test_a_class_a_folder_in_alphabetical_order(tmp_path):
    source = open_source(f"image_folder:{classes(tmp_path)}")
    assert len(source) == 9 and source.num_classes == 3
    assert source.class_names == ("ant", "bee", "cat")
    element = source[4]
    assert element["label"] == 1 and element["label"].dtype == np.int32
    assert element["image"].shape == (4, 6, 3) and element["image"][0, 0].tolist() == [21, 50, 0]
    assert source.describe(4) == "bee/1.png" and "caption" not in element


def test_flat_folder_has_captions_and_no_labels(tmp_path):
    for name, text in (("b", "a dog \n"), ("a", "ein Käfer")):
        picture(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text(text)
    source = ImageFolder(str(tmp_path)).open()
    assert [source[i]["caption"] for i in (0, 1)] == ["ein Käfer", "a dog"]
    assert "label" not in source[0] and source.num_classes == 0
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a.jpg has no caption a.txt"):
        ImageFolder(str(tmp_path)).open()


def lines(root, *rows):
    (root / "list.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return ImageFolder(str(root)).open()


def test_jsonl_says_file_caption_and_label(tmp_path):
    picture(tmp_path / "x" / "1.png", 1)
    picture(tmp_path / "2.png", 2)
    source = lines(
        tmp_path,
        {"file": "2.png", "caption": "two", "label": 4},
        {"file": "x/1.png", "caption": "one", "label": 0},
    )
    assert [int(source[i]["label"]) for i in (0, 1)] == [4, 0] and source.num_classes == 5
    assert source[1]["caption"] == "one" and source[0]["image"][0, 0, 0] == 2
    source = lines(tmp_path, {"file": "2.png", "caption": ["a\nb", "c "]})
    assert source[0]["caption"] == source.caption(0) == "a b\nc"  # several: a line each
    source = lines(tmp_path, {"file": "2.png", "label": "b"}, {"file": "x/1.png", "label": "a"})
    assert source.class_names == ("a", "b") and int(source[0]["label"]) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file": "none.png"}], "line 1: no file 'none.png'"),
        ([{"file": "1.png", "label": -1}], "label -1 is out of range"),
        ([{"file": "1.png", "label": True}], "must be a number or a name"),
        ([{"file": "1.png", "label": 1}, {"file": "1.png", "label": "a"}], "numbers in some"),
        ([{"file": "1.png", "caption": 3}], "must be a string"),
        ([{"file": "1.png", "caption": ["a", 3]}], "or a list of strings"),
        ([{"file": "1.png", "caption": []}], "or a list of strings"),
        ([{"file": "1.png", "caption": "x"}, {"file": "1.png"}], "only 1 of 2 lines"),
        ([{"image": "1.png"}], "needs"),
        ([], "names no pictures"),
    ],
)
def test_wrong_jsonl_names_the_line(tmp_path, rows, words):
    picture(tmp_path / "1.png")
    with pytest.raises(UserError) as error:
        lines(tmp_path, *rows)
    assert words in str(error.value) and "list.jsonl" in str(error.value)


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        ImageFolder(str(tmp_path)).open()
    classes(tmp_path)
    picture(tmp_path / "stray.png")
    with pytest.raises(UserError, match="both directly in it and in the class folders"):
        ImageFolder(str(tmp_path)).open()
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(UserError, match="line 1: not JSON"):
        ImageFolder(str(tmp_path)).open()
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"several \.jsonl"):
        ImageFolder(str(tmp_path)).open()


def test_every_mode_becomes_upright_rgb(tmp_path):
    picture(tmp_path / "a.png", 77, mode="L")
    picture(tmp_path / "b.png", 100, mode="RGBA")
    picture(tmp_path / "c.png", 200 * 257, mode="I;16")
    picture(tmp_path / "d.jpg", 0, mode="CMYK")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    picture(tmp_path / "e.jpg", exif=exif.tobytes())
    source = ImageFolder(str(tmp_path)).open()
    images = [source[i]["image"] for i in range(5)]
    assert all(im.dtype == np.uint8 and im.shape[2] == 3 for im in images)
    assert images[0][0, 0].tolist() == [77, 77, 77]
    assert images[1][0, 0].tolist() == [177, 152, 127]  # half transparent over white
    assert images[2][0, 0].tolist() == [200, 200, 200]
    assert images[4].shape == (6, 4, 3)


def test_damaged_pictures_are_replaced_and_named(tmp_path):
    classes(tmp_path)
    whole = (tmp_path / "bee" / "1.png").read_bytes()
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "ant" / "0.jpg")
    jpeg = (tmp_path / "ant" / "0.jpg").read_bytes()
    (tmp_path / "ant" / "0.jpg").unlink()
    broken = {
        "ant/0.png": jpeg[: len(jpeg) // 2],
        "ant/1.png": b"",
        "bee/1.png": whole[: len(whole) // 2],
        "cat/2.png": b"no picture at all",
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    source = ImageFolder(str(tmp_path)).open()
    for i, name in enumerate(source._files):
        if name in broken:
            with pytest.raises(Corrupt, match=name):
                source[i]
    settings = StreamSettings(source=ImageFolder(str(tmp_path)), batch=9)
    stream = open_stream(settings, seed=0)
    batch = next(stream)
    assert stream.report()["names"] == dict.fromkeys(broken, 1)
    assert stream.report()["replaced"] == 4 and batch["image"].shape == (9, 4, 6, 3)
    stream.close()


def test_reads_from_a_remote_store(tmp_path):
    fs = fsspec.filesystem("memory")
    for name in ("x/a/0.png", "x/a/1.png", "x/b/0.png"):
        picture(tmp_path / "one.png", 9)
        with fs.open(f"/{tmp_path.name}/{name}", "wb") as file:
            file.write((tmp_path / "one.png").read_bytes())
    source = open_source(f"image_folder:memory://{tmp_path.name}/x")
    assert len(source) == 3 and source.class_names == ("a", "b")
    assert source[2]["label"] == 1 and source[2]["image"][0, 0].tolist() == [9, 50, 0]
