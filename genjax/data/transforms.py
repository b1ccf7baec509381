"""Deterministic image transforms on uint8 arrays [h, w, c]."""

import numpy as np

from genjax.core.errors import UserError


def center_crop(image: np.ndarray, height: int, width: int, levels: int = 256) -> np.ndarray:
    """Returns the image scaled to cover height x width and cropped in the middle (ADM's way).

    Halve with the BOX filter while both sides stay at least twice the target, then resize with
    BICUBIC until the target is just covered, then crop at the integer floor offset.
    """
    if image.ndim != 3:
        raise UserError(f"cannot crop {image.shape}: only pictures [h, w, c] are resized")
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    while w >= 2 * width and h >= 2 * height:
        w, h = w // 2, h // 2
        picture = picture.resize((w, h), Image.Resampling.BOX)
    scale = max(width / w, height / h)
    w, h = round(w * scale), round(h * scale)
    picture = picture.resize((w, h), Image.Resampling.BICUBIC)
    top, left = (h - height) // 2, (w - width) // 2
    out = np.asarray(picture).reshape(h, w, image.shape[2])
    # BICUBIC overshoots: Pillow clips at 255, which is not the last level of the digits.
    return np.minimum(out[top : top + height, left : left + width], levels - 1)


def flip(image: np.ndarray) -> np.ndarray:
    """Returns the image [..., h, w, c] mirrored left to right."""
    return image[..., ::-1, :]


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns the image [..., h, w, c] with `channels` 1 (ITU-R 601 grey) or 3 (grey repeated)."""
    given = image.shape[-1]
    if given == channels:
        return image
    if given == 1 and channels == 3:
        return np.repeat(image, 3, -1)
    if given == 3 and channels == 1:
        grey = image @ np.array([299, 587, 114], np.uint32)
        return ((grey + 500) // 1000).astype(np.uint8)[..., None]
    raise UserError(f"channels: cannot make {channels} channels of {given}; choose 1 or 3")


def pad(image: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the image [..., h, w, c] with `pixels` of zeros on all four sides."""
    sides = [(0, 0)] * (image.ndim - 3) + [(pixels, pixels)] * 2 + [(0, 0)]
    return np.pad(image, sides)
