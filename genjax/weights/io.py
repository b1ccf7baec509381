"""Reading and writing tensor files. No pickle is ever opened."""

import argparse
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genjax.core.errors import UserError

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("ema", "model", "state_dict")  # of a trainer's checkpoint, the average first


def read_tensors(path: str) -> dict[str, np.ndarray]:
    """Returns the file's tensors by name.

    `.safetensors` needs nothing; `.pt`, `.pth`, `.bin` and `.ckpt` need torch, which opens them
    with `weights_only=True`: tensors and containers, no code. Of a trainer's checkpoint with
    several state dicts the first of `ema`, `model`, `state_dict` is taken. Raises `UserError` for
    missing or damaged files, and for any that would need a pickle.
    """
    if not os.path.isfile(path):
        what = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{path}: {what}; give a weight file")
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: no readable safetensors file ({error})") from error
    if suffix in _TORCH:
        return _read_torch(path)
    raise UserError(
        f"{path}: weights are read from .safetensors, {', '.join(_TORCH)}; other files, pickles "
        "above all, are never opened: save the tensors as safetensors first"
    )


def _read_torch(path: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading this file needs torch; install it, or save the tensors as "
            ".safetensors first"
        ) from error
    try:
        # Trainers put their parsed command line beside the tensors; it is a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for refused files
        raise UserError(
            f"{path}: damaged, or it holds more than tensors, which would need a pickle "
            f"({str(error).splitlines()[0]})"
        ) from error
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in loaded.values()
    ):
        raise UserError(f"{path}: holds no state dict (tensors by name)")
    return {name: _to_numpy(tensor, torch) for name, tensor in loaded.items()}


def _to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the tensors, all or nothing: the file appears under its name when it is complete.

    Raises `UserError` if the path cannot be written.
    """
    path = os.fspath(path)
    part = f"{path}.part"
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        save_file(arrays, part, dict(metadata or {}))
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        if os.path.isfile(part):
            os.remove(part)
        raise UserError(f"{path}: cannot be written ({error})") from error
