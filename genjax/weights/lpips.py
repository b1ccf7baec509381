"""LPIPS in the layout of the `lpips` package ("lpips"), or as its two public parts.

The state dict of `lpips.LPIPS(net=...)` (`net.sliceS.I.weight`, `linN.model.1.weight`, a second
copy of the heads under `lins.`, `scaling_layer.*`); or torchvision's classifier (`features.*`)
together with the package's heads, v0.1. Written is the package's layout.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.lpips import BACKBONES, LPIPS, SCALE, SHIFT
from genjax.weights import names

FORMAT = "lpips"


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[LPIPS, dict[str, Tree]]:
    """Returns the network and {"params": tree}; `fields`: `net`, checked where it is given."""
    unknown = set(fields) - {"net"}
    if unknown:
        raise UserError(f"{FORMAT}: unknown field {sorted(unknown)[0]!r}; known: net")
    unread = re.compile(r"(classifier|lins|scaling_layer)\.")
    short = {re.sub(r"^(net\.slice\d+|features)\.", "", k): v for k, v in tensors.items()}
    short = {k: v for k, v in short.items() if not unread.match(k)}
    net = _net(short)
    if fields.get("net", net) != net:
        raise UserError(f"{FORMAT}: net is given as {fields['net']!r}, the tensors are of {net!r}")
    own = _names(net)
    shapes = _shapes(net)
    wanted = {name: _theirs(path, shapes[path]) for name, path in own.items()}
    names.check(FORMAT, short, wanted)
    for name, want in (("shift", SHIFT), ("scale", SCALE)):
        found = np.ravel(tensors.get(f"scaling_layer.{name}", np.asarray(want)))
        if found.shape != (3,) or not np.allclose(found, want, atol=1e-6):
            raise UserError(f"{FORMAT}: scaling_layer.{name} is {found}, not {want}; version 0.1?")
    params = {path: _from_torch(np.asarray(short[name]), path) for name, path in own.items()}
    return LPIPS(net), {"params": tree.nested(params)}


def save(module: LPIPS, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the state dict of the package."""
    params = {k: np.asarray(v) for k, v in tree.flatten(nn.unbox(variables["params"])).items()}
    slices = _slices(module.net)
    out = {
        "scaling_layer.shift": np.asarray(SHIFT, np.float32).reshape(1, 3, 1, 1),
        "scaling_layer.scale": np.asarray(SCALE, np.float32).reshape(1, 3, 1, 1),
    }
    for name, path in _names(module.net).items():
        value = params[path]
        if path.startswith("head"):
            value = np.ascontiguousarray(value.reshape(1, -1, 1, 1))
            out[name] = value
            out[re.sub(r"^lin(\d+)\.", r"lins.\1.", name)] = value
        else:
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            prefix = f"net.slice{slices[int(name.split('.')[0])]}"
            out[f"{prefix}.{name}"] = np.ascontiguousarray(value)
    return out


def _net(short: Mapping[str, np.ndarray]) -> str:
    first = short.get("0.weight")
    if first is None or not any(k.startswith("lin") for k in short):
        some = ", ".join(sorted(short)[:3]) or "nothing"
        raise UserError(
            f"{FORMAT}: needs a backbone (features.0.weight or net.slice1.0.weight) and its heads "
            f"(lin0.model.1.weight), found {some}; give both files"
        )
    shape = tuple(first.shape)
    if shape == (64, 3, 11, 11):
        return "alex"
    return "squeeze" if "3.squeeze.weight" in short else "vgg"


def _names(net: str) -> dict[str, str]:
    """Returns the file's name (without its prefix) -> our path."""
    out, taps = {}, 0
    for kind, *about in BACKBONES[net]:
        if kind == "tap":
            out[f"lin{taps}.model.1.weight"] = f"head_{taps}"
            taps += 1
        for part in {"conv": ("",), "fire": ("squeeze", "expand1x1", "expand3x3")}.get(kind, ()):
            theirs = f"{about[0]}.{part}".rstrip(".")
            ours = f"backbone/{kind}_{about[0]}" + (f"_{part}" if part else "")
            out[f"{theirs}.weight"], out[f"{theirs}.bias"] = f"{ours}/kernel", f"{ours}/bias"
    return out


def _slices(net: str) -> dict[int, int]:
    """Returns index in the backbone -> number of the package's slice, which a tap ends."""
    out, slice_ = {}, 1
    for kind, *about in BACKBONES[net]:
        if kind == "tap":
            slice_ += 1
        elif kind in ("conv", "fire"):
            out[about[0]] = slice_
    return out


def _theirs(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path.startswith("head"):
        return (1, shape[0], 1, 1)
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def _shapes(net: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of our parameters, as the backbone's table says."""
    out: dict[str, tuple[int, ...]] = {}
    channels, taps = 3, 0

    def conv(name: str, i: int, o: int, size: int) -> None:
        out[f"backbone/{name}/kernel"], out[f"backbone/{name}/bias"] = (size, size, i, o), (o,)

    for kind, *about in BACKBONES[net]:
        if kind == "conv":
            conv(f"conv_{about[0]}", channels, about[1], about[2])
            channels = about[1]
        elif kind == "fire":
            index, squeezed, expanded = about
            conv(f"fire_{index}_squeeze", channels, squeezed, 1)
            conv(f"fire_{index}_expand1x1", squeezed, expanded, 1)
            conv(f"fire_{index}_expand3x3", squeezed, expanded, 3)
            channels = 2 * expanded
        elif kind == "tap":
            out[f"head_{taps}"] = (channels,)
            taps += 1
    return out


def _from_torch(value: np.ndarray, path: str) -> np.ndarray:
    if path.startswith("head"):
        return np.ascontiguousarray(value.reshape(-1))
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if value.ndim == 4 else value
