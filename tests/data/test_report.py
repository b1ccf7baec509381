import io
import json

import fsspec
import numpy as np
import pytest
from PIL import Image

from genjax.core.errors import UserError
from genjax.data.report import first_batch, grid_png, save_grid, warnings


def images(n, h=8, w=8, c=1, high=256):
    return np.random.RandomState(0).randint(0, high, (n, h, w, c)).astype(np.uint8)


def test_grid_shows_every_image_in_rows(tmp_path):
    given = images(5, 24, 48, 3)
    save_grid(given, str(tmp_path / "grid.png"), columns=3)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (2 * 26, 3 * 50, 3)
    for i in range(5):
        top, left = i // 3 * 26 + 1, i % 3 * 50 + 1
        assert np.array_equal(sheet[top : top + 24, left : left + 48], given[i])
    assert (sheet[26:, 100:] == 255).all()  # the empty place is white


def test_grid_enlarges_small_images_and_spreads_levels(tmp_path):
    given = images(4, high=17)
    save_grid(given, str(tmp_path / "grid.png"), levels=17)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (100, 100, 3)
    tile = sheet[1:49:6, 51:99:6, 0]
    assert np.array_equal(tile, np.round(given[1, ..., 0] * (255 / 16)))


def test_grid_with_text_has_a_line_for_each_and_goes_to_remote_stores(tmp_path):
    path = f"memory://{tmp_path.name}/grid.png"
    save_grid(images(3), path, columns=3, labels=[1, 2, 3], captions=["käfer", "漢字", "w" * 99])
    with fsspec.open(path) as file:
        sheet = np.asarray(Image.open(file).convert("L"))
    assert sheet.shape == (50 + 24, 150)
    assert all((sheet[:24, 50 * i : 50 * i + 50] < 128).any() for i in range(3))
    with pytest.raises(ValueError):
        save_grid(images(0), path)


def batch(n=32, classes=4):
    rng = np.random.RandomState(1)
    return {"image": images(n), "label": rng.randint(0, classes, n).astype(np.int32)}


def test_first_batch_is_written_down(tmp_path):
    given = batch() | {"caption": np.array([f"number {i}" for i in range(32)])}
    given["moments"] = np.linspace(-2, 3, 32 * 4, dtype=np.float32).reshape(32, 2, 2, 1)
    assert first_batch(given, str(tmp_path / "f"), ["a", "b", "c", "d"]) == []
    report = json.loads((tmp_path / "f" / "report.json").read_text())
    assert report["arrays"]["moments"]["min"] == -2 and report["arrays"]["moments"]["max"] == 3
    assert report["arrays"]["moments"]["shape"] == [32, 2, 2, 1]
    assert sum(report["labels"].values()) == 32 and set(report["labels"]) <= {
        "0 a",
        "1 b",
        "2 c",
        "3 d",
    }
    assert report["captions"][3] == "number 3" and report["warnings"] == []
    for name in ("images.png", "labels.png"):
        assert Image.open(tmp_path / "f" / name).size[0] > 100


def test_first_batch_takes_clips_and_batches_without_images(tmp_path):
    clip = {"image": images(12, 8, 8, 3).reshape(2, 6, 8, 8, 3)}
    assert first_batch(clip, str(tmp_path / "clip")) == []
    latent = {"moments": np.zeros((4, 2, 2, 8), np.float32)}
    assert first_batch(latent, str(tmp_path / "latent")) == []
    assert [p.name for p in (tmp_path / "latent").iterdir()] == ["report.json"]


def test_values_beyond_the_levels_are_refused(tmp_path):
    with pytest.raises(UserError, match="17 levels"):
        first_batch(batch(), str(tmp_path / "f"), levels=17)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": np.zeros(32, np.int32)}, "all 32 labels are 0"),
        ({"label": np.repeat([0, 1], [31, 1]).astype(np.int32)}, "very uneven"),
        ({"label": np.repeat(np.arange(4), 8).astype(np.int32)}, "sorted order"),
        ({"image": np.zeros((32, 8, 8, 1), np.uint8)}, "one value everywhere"),
        ({"image": np.repeat(images(4), 8, 0)}, "repetitions"),
        ({"caption": np.array(["x"] * 31 + [" "])}, "captions are empty"),
        ({"moments": np.float32([[1, np.nan]] * 32)}, "moments holds NaN"),
    ],
)
def test_what_looks_wrong_is_said(change, words):
    assert any(words in line for line in warnings(batch() | change, 4))


def test_good_batches_are_not_suspected():
    for seed in range(20):
        labels = np.random.RandomState(seed).randint(0, 1000, 64).astype(np.int32)
        assert warnings({"image": images(64), "label": labels}, 1000) == []


def test_grid_places_images_in_rows_below_the_title():
    pixels = np.zeros((3, 40, 40, 3), np.uint8)
    pixels[1], pixels[2] = (255, 0, 0), (0, 255, 0)
    sheet = np.asarray(Image.open(io.BytesIO(grid_png(pixels, columns=2, title="t"))))
    red = np.argwhere((sheet == (255, 0, 0)).all(-1))
    green = np.argwhere((sheet == (0, 255, 0)).all(-1))
    assert len(red) == len(green) == 1600
    assert red[0][1] > green[0][1] and green[0][0] > red[0][0]
