"""Networks of EDM's repository, `SongUNet` (DDPM++, NCSN++) and `DhariwalUNet` (ADM) ("edm").

The state dict of such a network, or of a preconditioner around it (names start with `model.`).
Names hold the resolution: `enc.32x32_block0.conv0.weight`. Matrices are [out, in], convolutions
[out, in, k, k]; the channels of `qkv` run as head, channel, {q, k, v}. Fixed filters and Fourier
frequencies are buffers there. The network's `time` is the reference's `noise_labels`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.unet import UNet
from genjax.models.unet_plan import Run
from genjax.weights import layout
from genjax.weights.layout import Entry, entry

FORMAT = "edm"
_PREFIX = "model."
_FREQUENCIES = "map_noise.freqs"
_FILTER = "resample_filter"
_RESOLUTION, _KEPT_PREFIX = "img_resolution", "prefix"  # among the constants, ours alone
_UNREAD = ("dropout", "label_dropout")  # of training alone
_FIELDS = (
    "img_resolution",
    "in_channels",
    "out_channels",
    "label_dim",
    "augment_dim",
    "model_channels",
    "channel_mult",
    "channel_mult_emb",
    "num_blocks",
    "attn_resolutions",
    "embedding_type",
    "channel_mult_noise",
    "encoder_type",
    "decoder_type",
    "resample_filter",
    *_UNREAD,
)


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[UNet, dict[str, Tree]]:
    """Returns the module and {"params": tree, "constants": what else the file holds}.

    `fields` are the reference's constructor arguments; the tensors tell all of them but `dropout`
    (0 unless given). Missing filters are those of the configuration. Raises `UserError` for
    unknown or contradicting fields, and for missing, unknown or wrongly shaped tensors.
    """
    prefix = _PREFIX if tensors and all(k.startswith(_PREFIX) for k in tensors) else ""
    bare = {k.removeprefix(prefix): v for k, v in tensors.items()}
    config = configuration(bare, fields)
    module = module_of(config)
    size = _size(config)
    shapes = layout.parameter_shapes(module, size)
    buffers = constants(module, size[:2])
    resolution = buffers.pop(_RESOLUTION)
    names = {k: v.shape for k, v in buffers.items()}
    params = layout.read(
        FORMAT, bare, _entries(module, size, shapes), shapes, names, frozenset(buffers)
    )
    kept = {k: bare[k] for k in buffers if k in bare}
    for name, value in kept.items():
        if not np.allclose(np.asarray(value, np.float32), buffers[name], atol=1e-3):
            raise UserError(f"{FORMAT}: {name} is not the filter that the rest of the file says")
    if prefix:
        kept[_KEPT_PREFIX] = np.frombuffer(prefix.encode(), np.uint8)
    kept[_RESOLUTION] = resolution
    return module, {"params": params, "constants": kept}


def save(module: UNet, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the reference's names; the inverse of `load`.

    The names hold the resolution, which is `variables["constants"]["img_resolution"]` (`constants`
    makes it for a network trained here). Raises `UserError` for what the format cannot hold.
    """
    _refuse(module)
    kept = dict(variables.get("constants", {}))
    if _RESOLUTION not in kept:
        raise UserError(f"{FORMAT}: names hold the resolution; give constants of the network")
    side = int(kept.pop(_RESOLUTION)[0])
    prefix = bytes(np.asarray(kept.pop(_KEPT_PREFIX, np.zeros(0, np.uint8)))).decode()
    size = (side, side, _channels(variables["params"]))
    shapes = layout.parameter_shapes(module, size)
    out = layout.write(_entries(module, size, shapes), variables["params"])
    out |= {k: np.asarray(v) for k, v in kept.items()}
    return {prefix + name: value for name, value in out.items()}


def constants(module: UNet, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns what the format's files hold beside parameters: the filters of all resamplings."""
    taps = module.filter_kernel()[None, None]
    out: dict[str, np.ndarray] = {_RESOLUTION: np.array([size[0]], np.int32)}
    for run in module.runs(size[0]):
        name = _name(run, run.names[0], size)
        if run.shape.resample != "none":
            out |= {f"{name}.{part}.{_FILTER}": taps for part in ("conv0", "skip")}
        if run.shape.resample == "down" and module.progressive_input != "none":
            part = "aux_down" if module.progressive_input == "skip" else "aux_residual"
            out[f"{_grid('enc', run.level, size)}_{part}.{_FILTER}"] = taps
        if run.shape.resample == "up" and module.progressive_output == "skip":
            out[f"{_grid('dec', run.level, size)}_aux_up.{_FILTER}"] = taps
    return out


def facts(module: UNet, variables: Mapping[str, Tree]) -> dict[str, Any]:
    """Returns {"shape": [h, w, c]} of the inputs."""
    side = int(variables["constants"][_RESOLUTION][0])
    return {"shape": [side, side, _channels(variables["params"])]}


def module_of(config: Mapping[str, Any]) -> UNet:
    """Returns the network of a complete reference configuration."""
    common: dict[str, Any] = {
        "channels": config["model_channels"],
        "channel_mult": tuple(config["channel_mult"]),
        "blocks": config["num_blocks"],
        "attention": tuple(config["attn_resolutions"]),
        "emb_mult": config["channel_mult_emb"],
        "num_classes": config["label_dim"],
        "augment": config["augment_dim"],
        "dropout": float(config["dropout"]),
        "resample_filter": tuple(config["resample_filter"]),
    }
    if config["embedding_type"] is None:
        return UNet(
            **common,
            block="adm",
            decoder_attention="all",
            head_channels=64,
            skip_rescale=False,
            embedding="cos_sin",
            init_scale=0.0,
        )
    return UNet(
        **common,
        embedding="fourier" if config["embedding_type"] == "fourier" else "sin_cos",
        noise_mult=config["channel_mult_noise"],
        progressive_input="none"
        if config["encoder_type"] == "standard"
        else config["encoder_type"],
        progressive_output="none" if config["decoder_type"] == "standard" else "skip",
    )


def configuration(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the reference's constructor arguments, told by the tensors and checked with `given`.

    `embedding_type` and what belongs to it are None for `DhariwalUNet`. Raises `UserError`.
    """
    for key in given:
        if key not in _FIELDS:
            raise UserError(f"{FORMAT}: unknown field {key!r}; known: {', '.join(_FIELDS)}")
    told = _infer(tensors)
    if not any(name.endswith(_FILTER) for name in tensors):
        told["resample_filter"] = list(given.get("resample_filter", (1, 1)))
    for key, value in given.items():
        if key in _UNREAD:
            continue
        value = list(value) if isinstance(value, (tuple, list)) else value
        if key == "attn_resolutions":
            sides = [told["img_resolution"] >> i for i in range(len(told["channel_mult"]))]
            value = [side for side in sides if side in value]
        if value != told[key]:
            raise UserError(
                f"{FORMAT}: {key} is given as {given[key]!r}, but the tensors are those of "
                f"{told[key]!r}; drop the field or take the right file"
            )
    return {**told, "dropout": given.get("dropout", 0.0)}


def _infer(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = [re.fullmatch(r"enc\.(\d+)x\1_block(\d+)\.conv1\.weight", name) for name in tensors]
    blocks = [(int(m[1]), int(m[2])) for m in found if m]

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != rank:
            some = ", ".join(sorted(tensors)[:3]) or "nothing"
            raise UserError(
                f"{FORMAT}: no tensor {name} with {rank} axes; this is no state dict of SongUNet "
                f"or DhariwalUNet (it starts with {some})"
            )
        return tuple(int(n) for n in tensors[name].shape)

    def has(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in tensors)

    sides = sorted({side for side, _ in blocks}, reverse=True) or [1]
    side = sides[0]
    width, channels = shape(f"enc.{side}x{side}_conv.weight", 4)[:2]
    emb, features = shape("map_layer0.weight", 2)
    adm = "out_conv.weight" in tensors
    head = "out_conv" if adm else f"dec.{side}x{side}_aux_conv"
    out = {
        "img_resolution": side,
        "in_channels": channels,
        "out_channels": shape(f"{head}.weight", 4)[0],
        "label_dim": shape("map_label.weight", 2)[1] if "map_label.weight" in tensors else 0,
        "augment_dim": shape("map_augment.weight", 2)[1] if "map_augment.weight" in tensors else 0,
        "model_channels": width,
        "channel_mult": [shape(f"enc.{s}x{s}_block0.conv1.weight", 4)[0] // width for s in sides],
        "channel_mult_emb": emb // width,
        "num_blocks": 1 + max(i for _, i in blocks),
        "attn_resolutions": [s for s in sides if f"enc.{s}x{s}_block0.qkv.weight" in tensors],
        "resample_filter": _taps(tensors),
        "embedding_type": None,
        "channel_mult_noise": None,
        "encoder_type": None,
        "decoder_type": None,
    }
    if not adm:
        skip, residual = has(r"enc\..*_aux_skip\.weight"), has(r"enc\..*_aux_residual\.weight")
        heads = sum(bool(re.fullmatch(r"dec\..*_aux_conv\.weight", name)) for name in tensors)
        out |= {
            "embedding_type": "fourier" if _FREQUENCIES in tensors else "positional",
            "channel_mult_noise": features // width,
            "encoder_type": "skip" if skip else "residual" if residual else "standard",
            "decoder_type": "skip" if heads > 1 else "standard",
        }
    return out


def _taps(tensors: Mapping[str, np.ndarray]) -> list[int]:
    """Returns the integer taps of the first filter in the file, [] where there is none."""
    name = next((k for k in tensors if k.endswith(_FILTER)), None)
    if name is None:
        return []
    rows = np.asarray(tensors[name], np.float64)[0, 0].sum(1)
    return [int(n) for n in np.rint(rows / rows[0])]


def _size(config: Mapping[str, Any]) -> tuple[int, int, int]:
    side = config["img_resolution"]
    if config["in_channels"] != config["out_channels"]:
        raise UserError(
            f"{FORMAT}: {config['in_channels']} channels in and {config['out_channels']} out; "
            "only networks with as many out as in are supported"
        )
    return side, side, config["in_channels"]


def _channels(params: Mapping[str, Any]) -> int:
    return int(params["in"]["kernel"].shape[2])


def _refuse(module: UNet) -> None:
    if not isinstance(module, UNet):
        raise UserError(f"{FORMAT}: holds U-Nets, not {type(module).__name__}")
    adm = module.block == "adm"
    want = {
        "decoder_attention": "all" if adm else "last",
        "skip_rescale": not adm,
        "group_channels": 4,
        "combine": "sum",
        "center": False,
        **({"head_channels": 64, "embedding": "cos_sin"} if adm else {"heads": 1}),
    }
    wrong = [key for key, value in want.items() if getattr(module, key) != value]
    if module.block == "ddpm" or module.progressive_output == "residual":
        wrong.append("block" if module.block == "ddpm" else "progressive_output")
    if wrong:
        raise UserError(
            f"{FORMAT}: the format cannot hold this network's {wrong[0]} "
            f"({getattr(module, wrong[0])!r})"
        )


def _grid(part: str, level: int, size: tuple[int, ...]) -> str:
    return f"{part}.{size[0] >> level}x{size[0] >> level}"


def _name(run: Run, block: str, size: tuple[int, ...]) -> str:
    part = "enc" if run.part == "enc" else "dec"
    end = f"in{block[-1]}" if run.part == "mid" else block.rpartition("_")[2]
    return f"{_grid(part, run.level, size)}_{end}"


def _entries(module: UNet, size: tuple[int, int, int], ours: Mapping) -> list[Entry]:
    """Returns where every tensor of the file lies in our parameters of the shapes `ours`."""
    adm = module.block == "adm"
    out = layout.conv(f"{_grid('enc', 0, size)}_conv", "in", ours)
    for name, path in (("map_layer0", "in"), ("map_layer1", "out"), ("map_label", "label"),
                       ("map_augment", "augment")):  # fmt: skip
        if f"conditioning/{path}/kernel" in ours:
            out += layout.linear(name, f"conditioning/{path}", ours)
    if module.embedding == "fourier":
        path = "conditioning/fourier/frequencies"
        out.append(entry(_FREQUENCIES, path, ours[path]))
    for run in module.runs(size[0]):
        for i, block in enumerate(run.names):
            index = (i,) if len(run.names) > 1 else ()
            out += _block(_name(run, block, size), run.name, ours, index)
        grid = _grid(run.part, run.level, size)
        if run.shape.resample == "down" and module.progressive_input != "none":
            path = f"enc{run.level}_pyramid"
            skip = module.progressive_input == "skip"
            out += layout.conv(
                f"{grid}_aux_skip" if skip else f"{grid}_aux_residual",
                path if skip else f"{path}/conv",
                ours,
            )
    for level in range(len(module.channel_mult)):
        path, grid = f"dec{level}_head", _grid("dec", level, size)
        if f"{path}/norm/scale" in ours:
            out += layout.norm("out_norm" if adm else f"{grid}_aux_norm", f"{path}/norm", ours)
            out += layout.conv("out_conv" if adm else f"{grid}_aux_conv", f"{path}/conv", ours)
    return out


def _block(name: str, path: str, ours: Mapping, index: tuple) -> list[Entry]:
    out = []
    for part in ("norm0", "norm1", "norm2"):
        if f"{path}/{part}/scale" in ours:
            out += layout.norm(f"{name}.{part}", f"{path}/{part}", ours, index)
    for part in ("conv0", "conv1", "skip"):
        if f"{path}/{part}/kernel" in ours:
            out += layout.conv(f"{name}.{part}", f"{path}/{part}", ours, index)
    out += layout.linear(f"{name}.affine", f"{path}/affine", ours, index)
    if f"{path}/norm2/scale" in ours:
        qkv, proj = f"{path}/attention/qkv", f"{path}/attention/out"
        flat = lambda shape: (shape[0] * shape[1] * shape[2], shape[3], 1, 1)  # noqa: E731
        square = lambda shape: (shape[0], shape[1] * shape[2], 1, 1)  # noqa: E731
        whole = lambda shape: (shape[0] * shape[1] * shape[2],)  # noqa: E731
        out += [  # [c, 3, head, d] here: the file's rows run head, d, 3
            entry(f"{name}.qkv.weight", f"{qkv}/kernel", ours[f"{qkv}/kernel"], (2, 3, 1, 0),
                  index, flat),
            entry(f"{name}.qkv.bias", f"{qkv}/bias", ours[f"{qkv}/bias"], (1, 2, 0), index, whole),
            entry(f"{name}.proj.weight", f"{proj}/kernel", ours[f"{proj}/kernel"], (2, 0, 1),
                  index, square),
            entry(f"{name}.proj.bias", f"{proj}/bias", ours[f"{proj}/bias"], None, index),
        ]  # fmt: skip
    return out
