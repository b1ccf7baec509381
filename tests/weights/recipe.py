"""Weights that depend on their names and shapes alone, as the goldens' references were filled."""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).parent / "goldens"


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 normal values of the stream that `name` seeds.

    Variance 1 / fan_in for matrices [out, in], 2 / fan_in for kernels of three or more axes;
    vectors `*weight` are 1 + 0.1 n, `*running_var` 1 + 0.1 |n|, others 0.1 n.
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    n = rng.standard_normal(shape)
    if len(shape) >= 2:
        n = n * np.sqrt((1 if len(shape) == 2 else 2) / np.prod(shape[1:]))
    elif name.endswith("weight"):
        n = 1 + 0.1 * n
    elif name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    else:
        n = 0.1 * n
    return n.astype(np.float32)


def weights(shapes: dict) -> dict[str, np.ndarray]:
    """Returns every tensor of a network, given the shapes of its named tensors."""
    return {name: tensor(name, tuple(shape)) for name, shape in shapes.items()}


def golden(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns the golden's description (config, shapes) and its arrays."""
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays
