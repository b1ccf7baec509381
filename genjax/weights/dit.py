"""DiT state dicts as facebookresearch/DiT names and lays them out ("facebook-dit").

Linear weights are [out, in] there; the patch convolution is [d, C, p, p], ours [p p C, d].
Blocks are numbered there and stacked here. The position table, fixed and computed by the network,
travels as the variable `constants/pos_embed`, so that it comes out as it came in.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.dit import VARIANTS, DiT
from genjax.weights import names

FORMAT = "facebook-dit"
POSITIONS = "pos_embed"
_FIELDS = (
    "input_size",
    "patch_size",
    "in_channels",
    "hidden_size",
    "depth",
    "num_heads",
    "mlp_ratio",
    "num_classes",
    "learn_sigma",
    "class_dropout_prob",
)
# Ours -> theirs, without `.weight` and `.bias`.
_ENDS = {
    "time/in": "t_embedder.mlp.0",
    "time/out": "t_embedder.mlp.2",
    "final_modulation": "final_layer.adaLN_modulation.1",
    "final": "final_layer.linear",
}
_BLOCK = {
    "attention/qkv": "attn.qkv",
    "attention/out": "attn.proj",
    "mlp/in": "mlp.fc1",
    "mlp/out": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}


def load(
    tensors: Mapping[str, np.ndarray], *, format: str = FORMAT, **fields: Any
) -> tuple[DiT, dict[str, Tree]]:
    """Returns the module and {"params": tree, "constants": {"pos_embed": table}}.

    `fields` are the reference's constructor arguments; the tensors tell all but `num_heads` of
    unpublished sizes, and whether the last row of the label table is the null label (it is,
    unless `class_dropout_prob` is 0 or `num_classes` counts all rows). Raises `UserError` for
    unknown fields, and for missing, unknown or wrongly shaped tensors.
    """
    config = configuration(tensors, fields, format)
    width, heads, p = config["hidden_size"], config["num_heads"], config["patch_size"]
    names.check(format, tensors, shapes(config), frozenset({POSITIONS}))
    module = module_of(config)
    params: dict = {
        "patch_embed": {
            "kernel": np.ascontiguousarray(
                tensors["x_embedder.proj.weight"].transpose(2, 3, 1, 0)
            ).reshape(p * p * config["in_channels"], width),
            "bias": tensors["x_embedder.proj.bias"],
        },
        "label": {"table": tensors["y_embedder.embedding_table.weight"]},
        "blocks": {},
    }
    for ours, theirs in _ENDS.items():
        tree.put(params, ours, _linear(tensors, theirs))
    inner = {
        "attention/qkv": ((width, 3, heads, width // heads), (3, heads, width // heads)),
        "attention/out": ((heads, width // heads, width), (width,)),
        "modulation": ((width, 6, width), (6, width)),
    }
    for ours, theirs in _BLOCK.items():
        blocks = [_linear(tensors, f"blocks.{i}.{theirs}") for i in range(config["depth"])]
        stacked = {key: np.stack([b[key] for b in blocks]) for key in ("kernel", "bias")}
        if ours in inner:
            for key, shape in zip(("kernel", "bias"), inner[ours]):
                stacked[key] = stacked[key].reshape(-1, *shape)
        tree.put(params["blocks"], ours, stacked)
    variables: dict[str, Tree] = {"params": params}
    if POSITIONS in tensors:
        _compare_positions(tensors[POSITIONS], module, format)
        variables["constants"] = {POSITIONS: tensors[POSITIONS]}
    return module, variables


def save(
    module: DiT, variables: Mapping[str, Tree], *, format: str = FORMAT
) -> dict[str, np.ndarray]:
    """Returns the tensors by the reference's names; the inverse of `load`.

    The position table is written where `variables["constants"]` has one (`constants` makes it for
    a network trained here). Raises `UserError` for what the format cannot hold:
    QK-norm, networks without labels.
    """
    if not isinstance(module, DiT):
        raise UserError(f"{format}: holds DiT networks, not {type(module).__name__}")
    for refused, what in ((module.qk_norm, "QK-norm"), (not module.num_classes, "lack of labels")):
        if refused:
            raise UserError(f"{format}: the format cannot hold this network's {what}")
    params = tree.flatten(nn.unbox(variables["params"]))
    params = {path: np.asarray(leaf) for path, leaf in params.items()}
    width, p = module.width, module.patch
    out: dict[str, np.ndarray] = {}
    kernel = params["patch_embed/kernel"].reshape(p, p, -1, width)
    out["x_embedder.proj.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
    out["x_embedder.proj.bias"] = params["patch_embed/bias"]
    out["y_embedder.embedding_table.weight"] = params["label/table"]
    for ours, theirs in _ENDS.items():
        _set_linear(out, theirs, params[f"{ours}/kernel"], params[f"{ours}/bias"])
    for ours, theirs in _BLOCK.items():
        kernels, biases = params[f"blocks/{ours}/kernel"], params[f"blocks/{ours}/bias"]
        for i, (kernel, bias) in enumerate(zip(kernels, biases)):
            _set_linear(out, f"blocks.{i}.{theirs}", kernel.reshape(-1, bias.size), bias)
    constants = variables.get("constants", {})
    if POSITIONS in constants:
        out[POSITIONS] = np.asarray(constants[POSITIONS])
    return out


def constants(module: DiT, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns the constants of a network for inputs of `size` pixels: the position table."""
    rows, cols = size[0] // module.patch, size[1] // module.patch
    return {POSITIONS: module.positions(rows, cols)[None]}


def facts(module: DiT, variables: Mapping[str, Tree]) -> dict[str, Any]:
    """Returns {"shape": [h, w, c]} of the inputs, where a (square) position table tells it."""
    table = variables.get("constants", {}).get(POSITIONS)
    if table is None:
        return {}
    side = round(table.shape[1] ** 0.5) * module.patch
    channels = variables["params"]["patch_embed"]["kernel"].shape[0] // module.patch**2
    return {"shape": [side, side, int(channels)]}


def module_of(config: Mapping[str, Any]) -> DiT:
    """Returns the network of a complete reference configuration."""
    return DiT(
        patch=config["patch_size"],
        width=config["hidden_size"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["num_classes"],
        null_label=config["class_dropout_prob"] > 0,
        learn_sigma=config["learn_sigma"],
    )


def configuration(tensors: Mapping[str, np.ndarray], given: Mapping, format: str) -> dict:
    """Returns the reference's constructor arguments: told by the tensors, or given.

    Raises `UserError` for unknown fields, for those that contradict the tensors and for what
    neither tells. `input_size` is left out where there is no position table.
    """
    for key in given:
        if key not in _FIELDS:
            raise UserError(f"{format}: unknown field {key!r}; known: {', '.join(_FIELDS)}")
    told = _infer(tensors, given, format)
    for key, value in told.items():
        if key in given and given[key] != value:
            raise UserError(
                f"{format}: {key} is given as {given[key]!r}, but the tensors are those of "
                f"{value!r}; drop the field or take the right file"
            )
    return {**told, **{key: given[key] for key in given}}


def _infer(tensors: Mapping[str, np.ndarray], given: Mapping, format: str) -> dict:
    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != rank:
            some = ", ".join(sorted(tensors)[:3]) or "nothing"
            raise UserError(
                f"{format}: no tensor {name} with {rank} axes; this is no DiT state dict (it "
                f"starts with {some})"
            )
        return tensors[name].shape

    width, channels, p, _ = shape("x_embedder.proj.weight", 4)
    depth = 0
    while f"blocks.{depth}.attn.qkv.weight" in tensors:
        depth += 1
    hidden = shape("blocks.0.mlp.fc1.weight", 2)[0]
    ratio = given.get("mlp_ratio", hidden / width)
    rows = shape("y_embedder.embedding_table.weight", 2)[0]
    dropout = given.get("class_dropout_prob")
    if dropout is None:
        dropout = 0.0 if rows == 1 or given.get("num_classes") == rows else 0.1
    out = {
        "patch_size": p,
        "in_channels": channels,
        "hidden_size": width,
        "depth": depth,
        "mlp_ratio": ratio if int(width * ratio) == hidden else hidden / width,
        "num_classes": rows - (dropout > 0),
        "class_dropout_prob": dropout,
        "learn_sigma": shape("final_layer.linear.weight", 2)[0] == 2 * p * p * channels,
    }
    if POSITIONS in tensors:
        side = round(shape(POSITIONS, 3)[1] ** 0.5) * p
        # The reference floors input_size / patch; a given size that does so too is as right.
        fits = given.get("input_size", side) // p * p == side
        out["input_size"] = given.get("input_size", side) if fits else side
    if "num_heads" not in given:
        published = {(v["width"], v["depth"]): v["heads"] for v in VARIANTS.values()}
        if (width, depth) not in published:
            raise UserError(
                f"{format}: width {width} and depth {depth} are of no published size, and tensors "
                "do not tell the number of heads; give num_heads"
            )
        out["num_heads"] = published[width, depth]
    elif width % given["num_heads"]:
        raise UserError(f"{format}: num_heads {given['num_heads']} does not divide {width}")
    return out


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the reference at this configuration."""
    d, p, c = config["hidden_size"], config["patch_size"], config["in_channels"]
    hidden = int(d * config["mlp_ratio"])
    linear = {
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
        "final_layer.linear": (p * p * c * (1 + config["learn_sigma"]), d),
    }
    for i in range(config["depth"]):
        inner = {
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "mlp.fc1": (hidden, d),
            "mlp.fc2": (d, hidden),
            "adaLN_modulation.1": (6 * d, d),
        }
        linear |= {f"blocks.{i}.{name}": shape for name, shape in inner.items()}
    out: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (d, c, p, p),
        "x_embedder.proj.bias": (d,),
        "y_embedder.embedding_table.weight": (
            config["num_classes"] + (config["class_dropout_prob"] > 0),
            d,
        ),
    }
    for name, shape in linear.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    side = config.get("input_size", 0) // p
    return out | {POSITIONS: (1, side * side, d)}


def _compare_positions(table: np.ndarray, module: DiT, format: str) -> None:
    side = round(table.shape[1] ** 0.5)
    if not np.allclose(table[0].astype(np.float32), module.positions(side, side), atol=5e-3):
        warnings.warn(
            f"{format}: {POSITIONS} is not the fixed sine-cosine table of a {side} x {side} grid; "
            "the network computes that table, and keeps the file's only for writing it back",
            stacklevel=3,
        )


def _linear(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {
        "kernel": np.ascontiguousarray(tensors[f"{name}.weight"].T),
        "bias": tensors[f"{name}.bias"],
    }


def _set_linear(out: dict, name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
    out[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
    out[f"{name}.bias"] = np.ascontiguousarray(bias.reshape(-1))
