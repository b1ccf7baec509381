"""CLIP in the layout of transformers' CLIPModel ("clip"): openai/clip-vit-*, and its like.

A folder with `model.safetensors` (or `pytorch_model.bin`) and `config.json`, one such file, or the
tensors. Without a configuration, heads are 64 wide and the activation is OpenAI's quick_gelu.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.clip import CLIP, EPSILON
from genjax.weights import layout
from genjax.weights.layout import Entry, entry

FORMAT = "clip"
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[CLIP, dict[str, Tree]]:
    """Returns the network and {"params": tree} (tables of position numbers as constants).

    `fields`: the configuration file's `text_config` and `vision_config`, where they say more than
    the tensors do (heads, activation, the token that ends a text), and `dtype`.
    """
    module = CLIP(**_fields(tensors, fields))
    shapes = _shapes(module)
    buffers = {name: tuple(tensors[name].shape) for name in _BUFFERS if name in tensors}
    params = layout.read(FORMAT, tensors, _entries(module, shapes), shapes, buffers)
    kept = {name: np.asarray(tensors[name]) for name in buffers}
    return module, {"params": params} | ({"constants": kept} if kept else {})


def save(module: CLIP, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the file's names."""
    out = layout.write(_entries(module, _shapes(module)), variables["params"])
    return out | {k: np.asarray(v) for k, v in variables.get("constants", {}).items()}


def locate(path: str) -> tuple[str, dict]:
    """Returns the weight file of a file or a folder, and the fields of its configuration."""
    if os.path.isdir(path):
        found = [f for n in WEIGHTS_NAMES if os.path.isfile(f := os.path.join(path, n))]
        if not found:
            raise UserError(f"{path}: no {' or '.join(WEIGHTS_NAMES)} in this folder")
        path = found[0]
    config = os.path.join(os.path.dirname(path), "config.json")
    if not os.path.isfile(config):
        return path, {}
    try:
        with open(config, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{config}: not a readable JSON file ({error})") from error
    if not isinstance(found, dict) or found.get("model_type") != "clip":
        return path, {}  # another thing's configuration
    return path, {k: found[k] for k in ("text_config", "vision_config") if k in found}


def _fields(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    known = {"text_config", "vision_config", "projection_dim", "dtype"}
    unknown = set(given) - known
    if unknown:
        raise UserError(
            f"{FORMAT}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}"
        )
    text, vision = (_plain(given.get(k)) for k in ("text_config", "vision_config"))

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            some = ", ".join(sorted(tensors)[:3])
            raise UserError(
                f"{FORMAT}: no tensor {name!r}; this is no CLIP in the layout of transformers "
                f"(its tensors start with {some or 'nothing'})"
            )
        return tuple(int(n) for n in tensors[name].shape)

    tokens, text_width = shape("text_model.embeddings.token_embedding.weight")
    width, _, patch, _ = shape("vision_model.embeddings.patch_embedding.weight")
    places = shape("vision_model.embeddings.position_embedding.weight")[0]
    mlp = "{}.encoder.layers.0.mlp.fc1.weight"
    act = text.get("hidden_act", vision.get("hidden_act", "quick_gelu"))
    if act not in _ACTIVATIONS or vision.get("hidden_act", act) != act:
        raise UserError(
            f"{FORMAT}: hidden_act is {act!r} and {vision.get('hidden_act', act)!r}; both towers "
            f"must have the same one of {', '.join(_ACTIVATIONS)}"
        )
    for part in (text, vision):
        if part.get("layer_norm_eps", EPSILON) != EPSILON:
            raise UserError(f"{FORMAT}: layer_norm_eps is {part['layer_norm_eps']}, not {EPSILON}")
    end = text.get("eos_token_id", tokens - 1)
    out = {
        "image_size": patch * round((places - 1) ** 0.5),
        "patch": patch,
        "image_width": width,
        "image_depth": _depth(tensors, "vision_model"),
        "image_heads": vision.get("num_attention_heads", max(width // 64, 1)),
        "image_hidden": shape(mlp.format("vision_model"))[0],
        "vocabulary": tokens,
        "positions": shape("text_model.embeddings.position_embedding.weight")[0],
        "text_width": text_width,
        "text_depth": _depth(tensors, "text_model"),
        "text_heads": text.get("num_attention_heads", max(text_width // 64, 1)),
        "text_hidden": shape(mlp.format("text_model"))[0],
        # Old configurations say 2, which no text holds: its readers look for the largest id.
        "end": tokens - 1 if end == 2 else int(end),
        "embedding": shape("text_projection.weight")[0],
        "activation": _ACTIVATIONS[act],
        "dtype": given.get("dtype", "float32"),
    }
    try:
        CLIP(**out)
    except ValueError as error:
        raise UserError(f"{FORMAT}: {error}") from error
    return out


def _plain(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    return dict(config) if isinstance(config, Mapping) else dict(config.to_dict())


def _depth(tensors: Mapping, tower: str) -> int:
    n = 0
    while f"{tower}.encoder.layers.{n}.layer_norm1.weight" in tensors:
        n += 1
    return n


def _shapes(module: CLIP) -> dict[str, tuple[int, ...]]:
    x = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    fresh = jax.eval_shape(module.init, jax.random.key(0), x, tokens)["params"]
    return {k.removesuffix("/value"): v.shape for k, v in tree.flatten(fresh).items()}


def _entries(module: CLIP, ours: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    def same(name: str, path: str, **how) -> Entry:
        return entry(name, path, ours[path], **how)

    text, image = "text_model", "vision_model"
    return [
        same("logit_scale", "logit_scale", index=(...,)),
        same("text_projection.weight", "text_projection/kernel", axes=(1, 0)),
        same("visual_projection.weight", "image_projection/kernel", axes=(1, 0)),
        same(f"{text}.embeddings.token_embedding.weight", "text/tokens"),
        same(f"{text}.embeddings.position_embedding.weight", "text/positions"),
        *layout.norm(f"{text}.final_layer_norm", "text/norm", ours),
        same(f"{image}.embeddings.class_embedding", "image/class"),
        same(
            f"{image}.embeddings.patch_embedding.weight", "image/patches/kernel", axes=(3, 2, 0, 1)
        ),
        same(f"{image}.embeddings.position_embedding.weight", "image/positions"),
        *layout.norm(f"{image}.pre_layrnorm", "image/norm_in", ours),  # the files' spelling
        *layout.norm(f"{image}.post_layernorm", "image/norm", ours),
        *(
            e
            for tower, name, depth in (
                ("text", text, module.text_depth),
                ("image", image, module.image_depth),
            )
            for i in range(depth)
            for e in _block(f"{name}.encoder.layers.{i}", f"{tower}/block_{i}", ours)
        ),
    ]


def _block(name: str, path: str, ours: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    attention = f"{name}.self_attn"
    parts = [f"{attention}.{letter}_proj" for letter in "qkv"]
    return [
        *layout.norm(f"{name}.layer_norm1", f"{path}/norm1", ours),
        *separate(parts, f"{path}/attention/qkv", ours),
        *joined(f"{attention}.out_proj", f"{path}/attention/out", ours),
        *layout.norm(f"{name}.layer_norm2", f"{path}/norm2", ours),
        *layout.linear(f"{name}.mlp.fc1", f"{path}/mlp/in", ours),
        *layout.linear(f"{name}.mlp.fc2", f"{path}/mlp/out", ours),
    ]


def separate(parts: Sequence[str], path: str, ours: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """Returns the entries of one matrix a file that are ours together, [i, parts, *o]."""
    kernel, bias = ours[f"{path}/kernel"], ours[f"{path}/bias"]
    axes = (*range(1, len(kernel) - 1), 0)
    out = []
    for i, name in enumerate(parts):
        out.append(
            entry(
                f"{name}.weight",
                f"{path}/kernel",
                kernel,
                axes,
                (slice(None), i),
                lambda shape: (int(np.prod(shape[:-1])), shape[-1]),
            )
        )
        flat = lambda shape: (int(np.prod(shape)),)  # noqa: E731
        out.append(entry(f"{name}.bias", f"{path}/bias", bias, None, (i,), flat))
    return out


def joined(name: str, path: str, ours: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """Returns weight [o, h d] and bias [o] of our kernel [h, d, o]."""
    return [
        entry(
            f"{name}.weight",
            f"{path}/kernel",
            ours[f"{path}/kernel"],
            (2, 0, 1),
            (),
            lambda shape: (shape[0], shape[1] * shape[2]),
        ),
        entry(f"{name}.bias", f"{path}/bias", ours[f"{path}/bias"]),
    ]
