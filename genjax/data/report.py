"""Pictures and numbers about a batch that a person can look at: image grids, the first batch."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.data import files

_CELL = 48  # small images are enlarged by whole factors to about this many screen pixels
_TEXT = 12  # height of a line of text


def grid_png(
    images: np.ndarray,
    columns: int = 0,
    labels: Sequence[Any] | None = None,
    captions: Sequence[str] | None = None,
    levels: int = 256,
    title: str = "",
) -> bytes:
    """Returns uint8 images [n, h, w, 1 or 3] (values 0 .. levels - 1) as one PNG.

    `columns`: images in a row; 0: about square. The title stands on top, labels and captions above
    each image, cut to its width. Small images are enlarged by whole factors, without smoothing.
    """
    from PIL import Image, ImageDraw

    images = np.asarray(images)
    n, h, w, c = images.shape
    if n == 0 or c not in (1, 3):
        raise ValueError(f"images [n, h, w, 1 or 3] with n > 0 expected, got {images.shape}")
    if levels != 256:
        images = np.round(images * (255 / (levels - 1))).astype(np.uint8)
    columns = min(columns or int(np.ceil(np.sqrt(n))), n)
    rows = -(-n // columns)
    scale = max(1, round(_CELL / max(h, w)))
    texts = [[str(t[i]) for t in (labels, captions) if t is not None] for i in range(n)]
    head, top_line = _TEXT * len(texts[0]), _TEXT if title else 0
    width, height = w * scale + 2, h * scale + 2 + head
    least = 6 * len(title) + 2  # Pillow's own letters are 6 pixels wide
    sheet = Image.new("RGB", (max(columns * width, least), rows * height + top_line), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((1, 0), title, "black")
    for i, image in enumerate(images):
        left, top = (i % columns) * width, (i // columns) * height + top_line
        for line, text in enumerate(texts[i]):
            draw.text((left + 1, top + line * _TEXT), _fit(draw, text, width - 2), "black")
        tile = Image.fromarray(np.repeat(image, 3 // c, -1))
        tile = tile.resize((w * scale, h * scale), Image.Resampling.NEAREST)
        sheet.paste(tile, (left + 1, top + head + 1))
    return _png(sheet)


def save_grid(images: np.ndarray, path: str, **layout: Any) -> None:
    """Writes `grid_png(images, **layout)` to a file, also to gs://, whole or not at all."""
    files.write_bytes(str(path), grid_png(images, **layout))


def _fit(draw, text: str, width: int) -> str:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own font can draw
    while text and draw.textlength(text) > width:
        text = text[:-1]
    return text


def _png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def first_batch(
    batch: Mapping[str, np.ndarray],
    directory: str,
    class_names: Sequence[str] = (),
    levels: int = 256,
    num_classes: int = 0,
) -> list[str]:
    """Writes what the first batch looks like into `directory`; returns warnings, one line each.

    images.png (up to 64 images with labels and captions), labels.png (histogram), report.json
    (shape, dtype, min, max, mean of every array, the histogram, captions, warnings).
    Raises `UserError` for images with values beyond `levels` - 1.
    """
    directory = str(directory)
    files.make_folder(directory)
    num_classes = num_classes or len(class_names)
    report: dict[str, Any] = {"arrays": {k: _numbers(v) for k, v in batch.items()}}
    image, labels, captions = (batch.get(k) for k in ("image", "label", "caption"))
    if image is not None and image.dtype == np.uint8:
        if int(image.max()) >= levels:
            raise UserError(
                f"the first batch holds pixel values up to {image.max()}, but the data set has "
                f"only {levels} levels; correct the source or the task's `levels`"
            )
        shown = image[:64] if image.ndim == 4 else image[:64].reshape(-1, *image.shape[-3:])[:64]
        names = None if labels is None else [_name(k, class_names) for k in labels[:64]]
        if shown.shape[-1] in (1, 3):
            texts = (names, captions) if image.ndim == 4 else (None, None)
            labelled = dict(zip(("labels", "captions"), texts))
            place = files.join(directory, "images.png")
            save_grid(shown, place, columns=8, levels=levels, **labelled)
    if labels is not None:
        counts = np.bincount(labels, minlength=num_classes)
        report["labels"] = {_name(k, class_names): int(m) for k, m in enumerate(counts) if m}
        files.write_bytes(files.join(directory, "labels.png"), _png(_bars(counts)))
    if captions is not None:
        report["captions"] = [str(c) for c in captions[:16]]
    report["warnings"] = warnings(batch, num_classes)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    files.write_bytes(files.join(directory, "report.json"), text.encode())
    return report["warnings"]


def warnings(batch: Mapping[str, np.ndarray], num_classes: int = 0) -> list[str]:
    """Returns what looks wrong about a batch: constant or sorted labels, low label entropy,
    constant or repeated images, empty captions, non-finite numbers."""
    out = []
    labels = batch.get("label")
    if labels is not None and len(labels) >= 8 and num_classes > 1:
        counts = np.bincount(labels)
        p = counts[counts > 0] / len(labels)
        entropy, usual = float(-(p * np.log(p)).sum()), np.log(min(num_classes, len(labels)))
        if len(p) == 1:
            out.append(f"all {len(labels)} labels are {labels[0]}: are the class folders right?")
        elif entropy < 0.5 * usual:
            out.append(
                f"labels are very uneven: entropy {entropy:.2f} nats where an even {num_classes}-"
                f"class batch has about {usual:.2f}"
            )
        if len(p) > 2 and np.all(np.diff(labels) >= 0):
            out.append("labels come in sorted order: is the stream shuffled?")
    image = batch.get("image")
    if image is not None and len(image) > 1:
        flat = image.reshape(len(image), -1)
        blank = int((flat.min(1) == flat.max(1)).sum())
        if blank:
            out.append(f"{blank} of {len(image)} images have one value everywhere")
        if len(np.unique(flat, axis=0)) <= len(image) // 2:
            out.append("more than half of the images are repetitions")
    captions = batch.get("caption")
    if captions is not None and any(not str(c).strip() for c in captions):
        out.append("some captions are empty")
    for name, value in batch.items():
        if value.dtype.kind not in "OUSb" and not np.isfinite(value.astype(np.float32)).all():
            out.append(f"{name} holds NaN or infinity")
    return out


def _name(k: int, class_names: Sequence[str]) -> str:
    named = k < len(class_names) and class_names[k] != str(k)
    return f"{k} {class_names[k]}" if named else str(k)


def _numbers(value: np.ndarray) -> dict:
    out: dict[str, Any] = {"shape": list(value.shape), "dtype": value.dtype.name}
    if value.dtype.kind not in "OUS":
        numbers = value.astype(np.float64)
        out |= {f: float(getattr(numbers, f)()) for f in ("min", "max", "mean", "std")}
    return out


def _bars(counts: np.ndarray):
    """Returns a bar chart of the counts; more than 500 classes are drawn as 500 groups."""
    from PIL import Image, ImageDraw

    groups = np.array([g.sum() for g in np.array_split(counts, min(len(counts), 500))])
    bar, height = max(1, 500 // len(groups)), 150
    sheet = Image.new("RGB", (bar * len(groups) + 40, height + 30), "white")
    draw = ImageDraw.Draw(sheet)
    top = max(int(groups.max()), 1)
    for k, count in enumerate(groups):
        if count:
            y = 15 + height - round(height * int(count) / top)
            right = 40 + (k + 1) * bar - (2 if bar > 3 else 1)
            draw.rectangle([40 + k * bar, y, right, 14 + height], "steelblue")
    draw.text((2, 10), str(top), "black")
    draw.text((2, height + 5), "0", "black")
    draw.text((40, height + 16), f"classes 0 to {len(counts) - 1}", "black")
    return sheet
