"""EDM2 state dicts as NVlabs/edm2's `Precond` names and lays them out ("edm2").

The module is the whole denoiser, with time = sigma. Weights are raw, convolutions [out, in, h, w]
there and [h, w, in, out] here; 1x1 convolutions are matrices [in, out] here. Blocks are named by
their resolution there and by their level here, and runs of equal ones are stacked here; so the
side of the images travels as the variable `constants/resolution`. Public files are pickles, which
are never opened: save the state dict of their network as safetensors first.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.edm2 import EDM2Denoiser, EDM2UNet
from genjax.weights import names

FORMAT = "edm2"
RESOLUTION = "resolution"
_FIELDS = (
    "img_resolution",
    "img_channels",
    "label_dim",
    "use_fp16",
    "sigma_data",
    "model_channels",
    "channel_mult",
    "num_blocks",
    "attn_resolutions",
    "channels_per_head",
    "dropout",
)
# What the reference can be told, but no published network was: only these values are held.
_FIXED = {
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "logvar_channels": 128,
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "resample_filter": (1, 1),
}
_UNTOLD = {"use_fp16": False, "sigma_data": 0.5, "channels_per_head": 64, "dropout": 0.0}
# Ours -> theirs.
_ENDS = {
    "in_conv/kernel": "unet.enc.{0}x{0}_conv.weight",
    "fourier/freqs": "unet.emb_fourier.freqs",
    "fourier/phases": "unet.emb_fourier.phases",
    "emb_noise/kernel": "unet.emb_noise.weight",
    "label/table": "unet.emb_label.weight",
    "out_conv/kernel": "unet.out_conv.weight",
    "out_gain": "unet.out_gain",
    "logvar_fourier/freqs": "logvar_fourier.freqs",
    "logvar_fourier/phases": "logvar_fourier.phases",
    "logvar/kernel": "logvar_linear.weight",
}
_BLOCK = {
    "conv0/kernel": "conv_res0.weight",
    "conv1/kernel": "conv_res1.weight",
    "emb/kernel": "emb_linear.weight",
    "emb_gain": "emb_gain",
    "skip/kernel": "conv_skip.weight",
    "qkv/kernel": "attn_qkv.weight",
    "proj/kernel": "attn_proj.weight",
}


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[EDM2Denoiser, dict[str, Tree]]:
    """Returns the denoiser and {"params": tree, "constants": {"resolution": side}}.

    `fields` are the reference's constructor arguments; the tensors tell all but `sigma_data`
    (0.5), `channels_per_head` (64), `dropout` (0) and `use_fp16` (False; True computes products in
    bfloat16). Raises `UserError` for unknown fields, and for missing, unknown or wrongly shaped
    tensors.
    """
    config = configuration(tensors, fields)
    module = module_of(config)
    wanted = shapes(config)
    names.check(FORMAT, tensors, wanted)
    params: dict = {}
    for ours, theirs in _paths(module, config["img_resolution"]):
        values = [_ours(tensors[name]) for name in theirs]
        tree.put(params, ours, values[0] if len(values) == 1 else np.stack(values))
    side = np.asarray(config["img_resolution"], np.int32)
    return module, {"params": params, "constants": {RESOLUTION: side}}


def save(module: EDM2UNet, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the reference's names; the inverse of `load`.

    `module` may be the raw network, whose parameters are the same. Raises `UserError` without
    `variables["constants"]["resolution"]` (`constants` makes it for a network trained here), and
    for networks of another kind.
    """
    if not isinstance(module, EDM2UNet):
        raise UserError(f"{FORMAT}: holds EDM2 networks, not {type(module).__name__}")
    side = variables.get("constants", {}).get(RESOLUTION)
    if side is None:
        raise UserError(
            f"{FORMAT}: the format names blocks by their resolution; give the side of the images "
            f"as constants/{RESOLUTION}"
        )
    params = tree.flatten(nn.unbox(variables["params"]))
    out: dict[str, np.ndarray] = {}
    for ours, theirs in _paths(module, int(side)):
        value = np.asarray(params[ours])
        for name, each in zip(theirs, [value] if len(theirs) == 1 else value):
            out[name] = _theirs(np.asarray(each), name)
    return out


def constants(module: EDM2UNet, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns {"resolution": side} for inputs of `size` pixels; they must be square."""
    if size[0] != size[1]:
        raise UserError(f"{FORMAT}: the format holds networks of square images, not {size}")
    return {RESOLUTION: np.asarray(size[0], np.int32)}


def facts(module: EDM2UNet, variables: Mapping[str, Tree]) -> dict[str, Any]:
    """Returns {"shape": [h, w, c]} of the inputs."""
    side = variables.get("constants", {}).get(RESOLUTION)
    if side is None:
        return {}
    channels = variables["params"]["out_conv"]["kernel"].shape[-1]
    return {"shape": [int(side), int(side), int(channels)]}


def module_of(config: Mapping[str, Any]) -> EDM2Denoiser:
    """Returns the denoiser of a complete reference configuration."""
    side, levels = config["img_resolution"], range(len(config["channel_mult"]))
    return EDM2Denoiser(
        width=config["model_channels"],
        multipliers=tuple(config["channel_mult"]),
        blocks=config["num_blocks"],
        attention_levels=tuple(i for i in levels if side >> i in config["attn_resolutions"]),
        head_channels=config["channels_per_head"],
        dropout=config["dropout"],
        num_classes=config["label_dim"],
        dtype="bfloat16" if config["use_fp16"] else "float32",
        sigma_data=config["sigma_data"],
    )


def configuration(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the reference's constructor arguments: told by the tensors, given, or its defaults.

    Raises `UserError` for unknown fields and for those that contradict the tensors.
    """
    for key, value in given.items():
        if key in _FIXED:
            held = _FIXED[key]
            if (tuple(value) if isinstance(value, list | tuple) else value) != held:
                raise UserError(f"{FORMAT}: {key} is {held!r} in EDM2 networks, not {value!r}")
        elif key not in _FIELDS:
            raise UserError(f"{FORMAT}: unknown field {key!r}; known: {', '.join(_FIELDS)}")
    given = {key: value for key, value in given.items() if key not in _FIXED}
    told = _infer(tensors, given)
    for key, value in told.items():
        asked: Any = given.get(key, value)
        if key == "attn_resolutions":  # one that no level has does nothing
            same = set(value) == set(asked) & set(_sides(told))
        else:
            same = tuple(asked) == value if isinstance(value, tuple) else asked == value
        if not same:
            raise UserError(
                f"{FORMAT}: {key} is given as {asked!r}, but the tensors are those of {value!r}; "
                "drop the field or take the right file"
            )
    return {**_UNTOLD, **given, **told}


def _sides(config: Mapping[str, Any]) -> list[int]:
    return [config["img_resolution"] >> i for i in range(len(config["channel_mult"]))]


def _infer(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            some = ", ".join(sorted(tensors)[:3]) or "nothing"
            raise UserError(
                f"{FORMAT}: no tensor {name}; this is no EDM2 state dict (it starts with {some})"
            )
        return tensors[name].shape

    pattern = re.compile(r"unet\.enc\.(\d+)x\1_block(\d+)\.conv_res0\.weight")
    found = [match for match in map(pattern.fullmatch, tensors) if match]
    sides = sorted({int(match[1]) for match in found}, reverse=True) or [0]
    widths = [shape(f"unet.enc.{s}x{s}_block0.conv_res0.weight")[0] for s in sides]
    blocks = 1 + max((int(match[2]) for match in found), default=0)
    attended = [s for s in sides if f"unet.enc.{s}x{s}_block0.attn_qkv.weight" in tensors]
    label = "unet.emb_label.weight"
    # Width and multipliers are told up to a common factor: the largest, unless one is given.
    width = given.get("model_channels", math.gcd(*widths))
    if not isinstance(width, int) or width < 1 or any(w % width for w in widths):
        raise UserError(
            f"{FORMAT}: model_channels is given as {width!r}, which does not divide the tensors' "
            f"channels {widths}; drop the field or take the right file"
        )
    return {
        "img_resolution": sides[0],
        "img_channels": shape("unet.out_conv.weight")[0],
        "label_dim": shape(label)[-1] if label in tensors else 0,
        "model_channels": width,
        "channel_mult": tuple(w // width for w in widths),
        "num_blocks": blocks,
        "attn_resolutions": attended,
    }


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the reference at this configuration."""
    module, side = module_of(config), config["img_resolution"]
    first, d, channels = module.widths[0], max(module.widths), config["img_channels"]
    ends = {
        "in_conv/kernel": (first, channels + 1, 3, 3),
        "fourier/freqs": (first,),
        "fourier/phases": (first,),
        "emb_noise/kernel": (d, first),
        "label/table": (d, config["label_dim"]),
        "out_conv/kernel": (channels, first, 3, 3),
        "out_gain": (),
        "logvar_fourier/freqs": (128,),
        "logvar_fourier/phases": (128,),
        "logvar/kernel": (1, 128),
    }
    inner = {}
    for run in module.runs:
        shape, out = run.shape, run.shape.out
        joined = shape.inputs + shape.skips
        inner |= {
            f"{run.name}/conv0/kernel": (out, joined if shape.decoder else out, 3, 3),
            f"{run.name}/conv1/kernel": (out, out, 3, 3),
            f"{run.name}/emb/kernel": (out, d),
            f"{run.name}/emb_gain": (),
            f"{run.name}/skip/kernel": (out, joined, 1, 1),
            f"{run.name}/qkv/kernel": (3 * out, out, 1, 1),
            f"{run.name}/proj/kernel": (out, out, 1, 1),
        }
    both = ends | inner
    return {name: both[ours] for ours, theirs in _paths(module, side) for name in theirs}


def _paths(module: EDM2UNet, side: int) -> Iterator[tuple[str, list[str]]]:
    """Yields our paths, each with the reference's tensors that stand (stacked) at it."""
    for ours, theirs in _ENDS.items():
        if module.num_classes or ours != "label/table":
            yield ours, [theirs.format(side)]
    for run in module.runs:
        shape, here = run.shape, side >> run.level
        parts = set(_BLOCK)
        if shape.inputs + shape.skips == shape.out:
            parts.remove("skip/kernel")
        if not shape.attention:
            parts -= {"qkv/kernel", "proj/kernel"}
        for part in sorted(parts):
            blocks = [name.partition("_")[::2] for name in run.names]  # "enc2", "block1"
            yield (
                f"{run.name}/{part}",
                [f"unet.{half[:3]}.{here}x{here}_{kind}.{_BLOCK[part]}" for half, kind in blocks],
            )


def _ours(tensor: np.ndarray) -> np.ndarray:
    """Returns a kernel [out, in, h, w] or [out, in] as we keep it; others as they are."""
    if tensor.ndim < 2:
        return tensor
    if tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    return np.ascontiguousarray(tensor.transpose((2, 3, 1, 0) if tensor.ndim == 4 else (1, 0)))


def _theirs(value: np.ndarray, name: str) -> np.ndarray:
    """Returns the inverse of `_ours` for the reference's tensor `name`."""
    if value.ndim < 2:
        return value
    value = np.ascontiguousarray(value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0)))
    pointwise = name.rsplit(".", 2)[-2] in ("conv_skip", "attn_qkv", "attn_proj")
    return value[:, :, None, None] if pointwise else value
