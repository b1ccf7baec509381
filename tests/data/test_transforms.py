import numpy as np
import pytest
from PIL import Image

from genjax.core.errors import UserError
from genjax.data.transforms import center_crop, flip, pad, to_channels


def picture(h, w, c=3, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (h, w, c)).astype(np.uint8)


def box(image):
    """Means of neighbours along the rows, then along the columns, each rounded half up."""
    h, w, c = image.shape
    wide = np.floor(image.reshape(h, w // 2, 2, c).mean(2) + 0.5)
    return np.floor(wide.reshape(h // 2, 2, w // 2, c).mean(1) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_powers_of_two_are_halved_by_boxes_and_nothing_else(channels):
    image = picture(16, 16, channels)
    assert np.array_equal(center_crop(image, 8, 8), box(image))
    assert np.array_equal(center_crop(image, 4, 4), box(box(image)))


def test_halving_goes_on_while_the_shorter_side_is_at_least_twice_the_target():
    # 15 x 30 to 8: 15 < 16, so no halving, bicubic alone, to 8 x 16, columns 4..11
    image = picture(15, 30)
    want = Image.fromarray(image).resize((16, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(center_crop(image, 8, 8), np.asarray(want)[:, 4:12])
    # 17 x 33: halved once with floors to 8 x 16, no resize left, columns 4..11
    image = picture(17, 33)
    want = Image.fromarray(image).resize((16, 8), Image.Resampling.BOX)
    assert np.array_equal(center_crop(image, 8, 8), np.asarray(want)[:, 4:12])


def test_crop_offset_is_the_floor():
    image = picture(4, 7)  # (7 - 4) // 2 = 1
    assert np.array_equal(center_crop(image, 4, 4), image[:, 1:5])
    image = picture(9, 4)  # (9 - 4) // 2 = 2
    assert np.array_equal(center_crop(image, 4, 4), image[2:6])


def test_sides_may_differ_and_small_images_are_enlarged():
    image = picture(10, 30)
    assert np.array_equal(center_crop(image, 10, 20), image[:, 5:25])
    assert center_crop(picture(5, 9), 16, 12).shape == (16, 12, 3)


def test_overshoot_stays_within_the_levels():
    image = (np.indices((8, 8)).sum(0) // 4 % 2 * 16).astype(np.uint8)[..., None]
    free = np.asarray(Image.fromarray(image[..., 0]).resize((16, 16), Image.Resampling.BICUBIC))
    assert free.max() > 16
    out = center_crop(image, 16, 16, levels=17)
    assert out.max() == 16 and np.array_equal(out[..., 0], np.minimum(free, 16))


def test_channels_pad_and_flip():
    pure = np.zeros((1, 3, 3), np.uint8)
    pure[0, np.arange(3), np.arange(3)] = 255
    assert to_channels(pure, 1).ravel().tolist() == [76, 150, 29]
    grey = picture(4, 5, 1)
    assert np.array_equal(to_channels(to_channels(grey, 3), 1), grey)
    image = picture(28, 28, 1)
    padded = pad(image, 2)
    assert padded.shape == (32, 32, 1) and np.array_equal(padded[2:-2, 2:-2], image)
    assert padded.astype(int).sum() == image.astype(int).sum()
    clip = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    assert flip(clip)[1, 2, 0, 0] == clip[1, 2, 3, 0] and pad(clip, 1).shape == (2, 5, 6, 1)
    with pytest.raises(UserError, match="channels"):
        to_channels(picture(2, 2, 2), 3)
    with pytest.raises(UserError, match="only pictures"):
        center_crop(clip, 2, 2)
