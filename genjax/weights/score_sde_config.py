"""score_sde_pytorch's configuration, told by the tensors of a state dict where they tell it."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.models.unet import UNet

FORMAT = "score-sde"
# Of training and sampling alone, or with one value in every published configuration.
_UNREAD = {
    "dropout": None,
    "init_scale": None,
    "fourier_scale": None,
    "continuous": None,
    "normalization": "GroupNorm",
    "nonlinearity": "swish",
    "resamp_with_conv": True,
    "conditional": True,
    "attention_type": "ddpm",
    "conv_size": 3,
}
_FIELDS = (
    "name",
    "image_size",
    "num_channels",
    "centered",
    "nf",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "embedding_type",
    "resblock_type",
    "fir",
    "fir_kernel",
    "skip_rescale",
    "progressive",
    "progressive_input",
    "progressive_combine",
    "scale_by_sigma",
)
_NCSNPP_ALONE = (
    "embedding_type",
    "resblock_type",
    "fir",
    "fir_kernel",
    "skip_rescale",
    "progressive",
    "progressive_input",
    "progressive_combine",
)


def module_of(config: Mapping[str, Any]) -> UNet:
    """Returns the network of a complete configuration."""
    fourier, ddpm = config["embedding_type"] == "fourier", config["resblock_type"] == "ddpm"
    return UNet(
        channels=config["nf"],
        channel_mult=tuple(config["ch_mult"]),
        blocks=config["num_res_blocks"],
        block="ddpm" if ddpm else "biggan",
        attention=tuple(config["attn_resolutions"]),
        group_channels=1 if config["name"] == "ddpm" else 4,
        resample_filter=tuple(config["fir_kernel"]) if config["fir"] else (1, 1),
        skip_rescale=config["skip_rescale"],
        progressive_input=_pyramid(config["progressive_input"]),
        progressive_output=_pyramid(config["progressive"]),
        combine=config["progressive_combine"],
        embedding="fourier" if fourier else "sin_cos",
        noise_mult=2 if fourier else 1,
        dropout=float(config["dropout"] or 0.0),
        center=not config["centered"],
    )


def _pyramid(name: str) -> str:
    return {"input_skip": "skip", "output_skip": "skip"}.get(name, name)


def configuration(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every field; raises `UserError` for unknown, contradicting and missing ones.

    What tensors do not tell is as in all published configurations unless given: FIR filters
    exactly where there are pyramids, rescaled sums in all but `ddpm`, sides such that attention
    lies at 16 pixels. Whether a positional network with pyramids is one of VE must be given.
    """
    for key, value in given.items():
        if key not in _FIELDS and key not in _UNREAD:
            known = ", ".join((*_FIELDS, *_UNREAD))
            raise UserError(f"{FORMAT}: unknown field {key!r}; known: {known}")
        if _UNREAD.get(key) is not None and value != _UNREAD[key]:
            raise UserError(f"{FORMAT}: {key} is {value!r}; only {_UNREAD[key]!r} is supported")
    if given.get("name") == "ddpm":  # that class does not read them
        given = {key: value for key, value in given.items() if key not in _NCSNPP_ALONE}
    told = _infer(tensors)
    levels = told.pop("attention_levels")
    side = given.get("image_size", 16 << levels[0] if levels else None)
    if side is None:
        raise UserError(f"{FORMAT}: the tensors do not tell the size of images; give image_size")
    told["attn_resolutions"] = [side >> level for level in levels]
    for key, value in told.items():
        wanted = given.get(key, value)
        wanted = list(wanted) if isinstance(wanted, (tuple, list)) else wanted
        if key == "attn_resolutions":
            sides = [side >> level for level in range(len(told["ch_mult"]))]
            wanted = [s for s in sides if s in wanted]
        if wanted != value:
            raise UserError(
                f"{FORMAT}: {key} is given as {given[key]!r}, but the tensors are those of "
                f"{value!r}; drop the field or take the right file"
            )
    config = {**_defaults(told, given), **given, **told, "image_size": side}
    if config["scale_by_sigma"] is None:
        raise UserError(
            f"{FORMAT}: NCSN++ with a positional embedding is published for VE and for VP; give "
            "scale_by_sigma and centered (True and False for VE, False and True for VP)"
        )
    pyramids = {told["progressive"], told["progressive_input"]} & {"residual"}
    if pyramids and not config["fir"]:
        raise UserError(f"{FORMAT}: residual pyramids without FIR filters are not supported")
    return config


def _defaults(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    pyramids = told["progressive"] != "none" or told["progressive_input"] != "none"
    name = given.get("name", "ddpm" if told["resblock_type"] == "ddpm" else "ncsnpp")
    fourier = told["embedding_type"] == "fourier"
    ve = given.get("scale_by_sigma", True if fourier else None if pyramids else False)
    return {
        "name": name,
        "centered": not ve,
        "fir": pyramids,
        "fir_kernel": (1, 3, 3, 1),
        "skip_rescale": name != "ddpm",
        "progressive_combine": "sum",
        "scale_by_sigma": ve,
        "dropout": 0.0,
    }


def _infer(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what the numbered modules tell, read in the order of execution."""
    modules: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"all_modules\.(\d+)\.(.+)", name)
        if found:
            shape = tuple(int(n) for n in tensor.shape)
            modules.setdefault(int(found[1]), {})[found[2]] = shape
    shapes = [modules.get(i, {}) for i in range(max(modules, default=-1) + 1)]
    kinds = [_kind(shape) for shape in shapes]
    start = kinds.index("conv") if "conv" in kinds else 0
    # The decoder's first block is the first that changes channels right behind another block.
    bottom = [
        i - 3
        for i in range(start + 4, len(kinds))
        if kinds[i] == "wider" and kinds[i - 3 : i] == ["block", "attention", "block"]
    ]
    if kinds[:start] not in (["linear"] * 2, ["fourier", "linear", "linear"]) or not bottom:
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(
            f"{FORMAT}: no modules all_modules.0, ... of a U-Net that embeds a time; this is no "
            f"state dict of NCSNpp or DDPM (it starts with {some})"
        )
    nf, channels = shapes[start]["weight"][:2]
    ddpm = "resampled" not in kinds and any(k.startswith("strided") for k in kinds)
    levels, pyramid, cat = [[]], "none", False
    for i in range(start + 1, bottom[0]):
        if kinds[i] == "combine":
            pyramid = "input_skip"
            cat = _inputs(shapes[i + 1]) == 2 * shapes[i]["Conv_0.weight"][0]
        elif kinds[i].startswith("strided") and (not ddpm or kinds[i - 1].startswith("strided")):
            pyramid = "residual"
        elif kinds[i] == "resampled" or kinds[i].startswith("strided"):
            levels.append([])
        else:
            levels[-1].append(i)
    blocks = [[i for i in level if kinds[i] != "attention"] for level in levels]
    heads = [i for i, kind in enumerate(kinds) if kind == "norm"]
    progressive = "none"
    if len(heads) > 1:
        skip = shapes[heads[0] + 1]["weight"][0] == channels
        progressive = "output_skip" if skip else "residual"
    out: dict[str, Any] = {
        "num_channels": channels,
        "nf": nf,
        "ch_mult": [shapes[level[0]]["Conv_0.weight"][0] // nf for level in blocks if level],
        "num_res_blocks": len(blocks[0]),
        "embedding_type": kinds[0] if kinds[0] == "fourier" else "positional",
        "resblock_type": "ddpm" if ddpm else "biggan",
        "progressive": progressive,
        "progressive_input": pyramid,
        "attention_levels": [n for n, level in enumerate(levels) if len(level) > len(blocks[n])],
    }
    if "strided_fir" in kinds:
        out["fir"] = True
    if pyramid == "input_skip":
        out["progressive_combine"] = "cat" if cat else "sum"
    return out


def _inputs(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return shapes.get("Conv_0.weight", (0, 0))[1]


def _kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns what a module is: "wider" blocks change channels, "resampled" ones only the grid."""
    if "NIN_3.W" in shapes:
        return "attention"
    if "Conv_1.weight" in shapes:
        if "NIN_0.W" in shapes:
            return "wider"
        if "Conv_2.weight" not in shapes:
            return "block"
        out, inputs = shapes["Conv_2.weight"][:2]
        return "resampled" if out == inputs else "wider"
    if "Conv2d_0.weight" in shapes:
        return "strided_fir"
    if "Conv_0.weight" in shapes:
        return "combine" if shapes["Conv_0.weight"][2:] == (1, 1) else "strided"
    if "W" in shapes:
        return "fourier"
    rank = len(shapes.get("weight", ()))
    return {1: "norm", 2: "linear", 4: "conv"}.get(rank, "unknown")
