"""Public checkpoints in and out: one file a layout, tensors converted without loss.

    module, variables = load("facebook-dit", "DiT-XL-2-256x256.pt")
    save("facebook-dit", module, variables, "dit.safetensors")

Every format's file has `load(tensors, **fields) -> (module, variables)` and
`save(module, variables) -> tensors`. It may have `locate(path) -> (file, fields)` for folders
with a configuration file, `constants(module, size)` for what a file holds beside parameters, and
`facts(module, variables)` for what a task must know beside the network.
"""

import importlib
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
import numpy as np

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.weights.io import read_tensors, write_safetensors

# Format -> the module that knows it, imported when first asked for.
FORMATS = {
    "facebook-dit": "genjax.weights.dit",
    "sit": "genjax.weights.sit",
    "diffusers-vae": "genjax.weights.vae",
    "score-sde": "genjax.weights.score_sde",
    "edm": "genjax.weights.edm",
    "edm2": "genjax.weights.edm2",
    "fid-inception": "genjax.weights.inception",
    "clip": "genjax.weights.clip",
    "dinov2": "genjax.weights.dinov2",
    "lpips": "genjax.weights.lpips",
}


def load(
    format: str, source: str | os.PathLike | Mapping[str, np.ndarray], **fields: Any
) -> tuple[nn.Module, dict[str, Tree]]:
    """Returns the network and its variables ({"params": tree, ...}, numpy in the file's dtypes).

    `source`: a file (`.safetensors`; `.pt`, `.pth`, `.bin` where torch is installed), a folder
    where the format has folders, or the tensors by name in the format's own layout. `fields`: the
    reference's configuration values under its names, where the tensors do not tell.
    Raises `UserError` for unknown formats and fields, and for files that do not hold the network.
    """
    codec = _module(format)
    if not isinstance(source, Mapping):
        path = os.fspath(source)
        if hasattr(codec, "locate"):
            path, found = codec.locate(path)
            fields = {**found, **fields}
        source = read_tensors(path)
    return codec.load(source, **fields)


def save(format: str, module: nn.Module, variables: Mapping[str, Tree], path: str) -> None:
    """Writes the network as a safetensors file of the format; the inverse of `load`.

    Raises `UserError` if the format cannot hold this network.
    """
    write_safetensors(path, tensors(format, module, variables))


def tensors(format: str, module: nn.Module, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns what `save` writes, by the format's names."""
    return _module(format).save(module, variables)


def constants(format: str, module: nn.Module, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns what the format's files hold beside parameters, for inputs of `size` pixels."""
    codec = _module(format)
    return codec.constants(module, size) if hasattr(codec, "constants") else {}


def facts(format: str, module: nn.Module, variables: Mapping[str, Tree]) -> dict[str, Any]:
    """Returns {"format": ..., and where they are known "shape": [h, w, c]} of a loaded network."""
    codec = _module(format)
    known = codec.facts(module, variables) if hasattr(codec, "facts") else {}
    return {"format": format, **known}


def _module(format: str) -> ModuleType:
    if format not in FORMATS:
        raise UserError(f"{format!r} is no weight format; choose one of {', '.join(FORMATS)}")
    return importlib.import_module(FORMATS[format])
