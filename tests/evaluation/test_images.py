"""Sets of images: the layouts they come in, and every way in which they can be wrong."""

import numpy as np
import pytest
from PIL import Image

from genjax.core.errors import UserError
from genjax.evaluation import images


def some(n=5, shape=(4, 6, 3), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def write_folder(folder, pictures, names=None):
    for i, x in enumerate(pictures):
        name = names[i] if names else f"{i:06d}.png"
        Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(folder / name)


@pytest.mark.parametrize("keys", [("labels",), ("arr_1",), ("arr_1", "labels"), ()])
def test_npz_with_its_labels(tmp_path, keys):
    x = some()
    np.savez(tmp_path / "s.npz", arr_0=x, **{k: np.arange(5) for k in keys})
    got = images.open_samples(tmp_path / "s.npz")
    assert got.size == 5 and got.shape == (4, 6, 3)
    assert np.array_equal(got.read(np.array([3, 0])), x[[3, 0]])
    assert np.array_equal(got.labels, np.arange(5)) if keys else got.labels is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_gives_its_pixels_in_order_of_names(tmp_path, channels):
    x = some(shape=(4, 6, channels))
    write_folder(tmp_path, x)
    got = images.open_samples(tmp_path)
    assert got.shape == (4, 6, channels) and got.labels is None
    assert np.array_equal(np.concatenate([b for _, b in got.blocks(2)]), x)
    (tmp_path / "labels.txt").write_text("4\n3\n2\n1\n0\n")
    assert np.array_equal(images.open_samples(tmp_path).labels, [4, 3, 2, 1, 0])


def test_a_subset_keeps_images_and_labels_together():
    x = some()
    got = images.of_arrays("x", x, np.arange(5)).take(np.array([4, 1]))
    assert got.size == 2 and np.array_equal(got.labels, [4, 1])
    assert np.array_equal(got.read(np.array([1])), x[[1]])


def test_fingerprint_sees_pixels_names_and_counts():
    x = some()
    changed = x.copy()
    changed[2, 0, 0, 0] ^= 1
    sets = [("x", x), ("y", x), ("x", x[:4]), ("x", changed)]
    assert len({images.of_arrays(*s).fingerprint for s in sets}) == 4
    assert images.of_arrays("x", x.copy()).fingerprint == images.of_arrays("x", x).fingerprint


def test_grey_levels_are_rounded_to_the_nearest():
    levels = np.arange(17, dtype=np.uint8)
    got = images.to_uint8(levels, 17)
    assert got[0] == 0 and got[16] == 255 and got.dtype == np.uint8
    assert np.abs(got - np.arange(17) * 255 / 16).max() <= 0.5
    assert np.array_equal(images.to_uint8(levels, 256), levels)


def test_noise_is_uniform_and_belongs_to_the_index():
    got = images.noise((8, 8, 1), 200, seed=3)
    block = got.read(np.arange(200))
    assert np.array_equal(got.read(np.array([7])), block[[7]])
    assert abs(block.mean() - 127.5) < 2 and abs(block.std() - 255 / np.sqrt(12)) < 1


def empty_npz(path):
    np.savez(path / "s.npz", arr_0=some(0))
    return path / "s.npz"


def wrong_key(path):
    np.savez(path / "s.npz", images=some())
    return path / "s.npz"


def floats(path):
    np.savez(path / "s.npz", arr_0=some() / 255.0)
    return path / "s.npz"


def few_labels(path):
    np.savez(path / "s.npz", arr_0=some(), labels=np.arange(4))
    return path / "s.npz"


def missing(path):
    return path / "nothing"


def empty_folder(path):
    return path


def mixed_sizes(path):
    write_folder(path, [some(1)[0], some(1, (5, 6, 3))[0]])
    return path


def truncated(path):
    (path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return path


def few_lines(path):
    write_folder(path, some())
    (path / "labels.txt").write_text("1\n2\n")
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (empty_npz, "holds no images"),
        (wrong_key, "expected under the key arr_0; this file has .'images'"),
        (floats, "expected uint8"),
        (few_labels, "as many integer labels"),
        (missing, "no such file or folder"),
        (empty_folder, "holds no images"),
        (mixed_sizes, "several sizes .000000.png is 6x4x3, 000001.png is 6x5x3"),
        (truncated, "no readable image"),
        (few_lines, "2 labels for 5 images"),
    ],
)
def test_every_wrong_input_is_one_line(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        _ = images.open_samples(make(tmp_path)).labels
    assert "\n" not in str(caught.value)
