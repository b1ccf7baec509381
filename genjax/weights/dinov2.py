"""DINOv2 backbones ("dinov2"): the state dicts of facebookresearch/dinov2, and transformers' names.

`dinov2_vitl14_pretrain.pth` and its sisters without registers. A file with the names of
transformers' Dinov2Model is read too; what is written has the original names.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.dinov2 import DINOv2
from genjax.weights import layout
from genjax.weights.clip import joined
from genjax.weights.layout import Entry, entry

FORMAT = "dinov2"
_FIELDS = {
    "num_heads": "heads",
    "num_attention_heads": "heads",
    "interpolate_offset": "offset",
    "dtype": "dtype",
}
# What transformers calls things (old and new releases), by regular expression.
_RENAMED = (
    (r"^(dinov2|backbone)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.w3."),
    (r"\.mlp\.gate_proj\.", ".mlp.w1."),
    (r"\.mlp\.up_proj\.", ".mlp.w2."),
)
_FUSED = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.w12": ("mlp.w1", "mlp.w2")}


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[DINOv2, dict[str, Tree]]:
    """Returns the network and {"params": tree}.

    `fields`: `num_heads` where heads are not 64 wide, `interpolate_offset` (0.1 for the original
    names, 0 for transformers', unless given), `dtype`.
    """
    unknown = set(fields) - set(_FIELDS)
    if unknown:
        raise UserError(
            f"{FORMAT}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(_FIELDS))}"
        )
    other = any(re.match(r"(\w+\.)?embeddings\.cls_token$", name) for name in tensors)
    tensors = original_names(tensors) if other else tensors
    given = {_FIELDS[key]: value for key, value in fields.items()}
    module = _module(tensors, {"offset": 0.0 if other else 0.1, **given})
    shapes = _shapes(module)
    params = layout.read(FORMAT, tensors, _entries(module, shapes), shapes, {})
    return module, {"params": params}


def save(module: DINOv2, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the original names."""
    return layout.write(_entries(module, _shapes(module)), variables["params"])


def original_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a file of transformers with the original names, matrices fused as there."""
    out: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        out[name] = np.asarray(tensor)
    for name in list(out):
        for fused, parts in _FUSED.items():
            if f".{parts[0]}." not in name:
                continue
            several = [name.replace(parts[0], part) for part in parts]
            if all(s in out for s in several):
                out[name.replace(parts[0], fused)] = np.concatenate([out.pop(s) for s in several])
    return out


def _module(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> DINOv2:
    for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.weight"):
        if name not in tensors:
            some = ", ".join(sorted(tensors)[:3])
            raise UserError(
                f"{FORMAT}: no tensor {name!r}; this is no DINOv2 backbone (its tensors start "
                f"with {some or 'nothing'})"
            )
    if "register_tokens" in tensors:
        raise UserError(f"{FORMAT}: this network has registers; take the file without them")
    width, _, patch, _ = (int(n) for n in tensors["patch_embed.proj.weight"].shape)
    gated = "blocks.0.mlp.w12.weight" in tensors
    inner = tensors.get("blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight")
    if inner is None:
        raise UserError(f"{FORMAT}: the feed-forward layers are neither fc1, fc2 nor w12, w3")
    depth = 0
    while f"blocks.{depth}.norm1.weight" in tensors:
        depth += 1
    try:
        return DINOv2(
            **{
                "patch": patch,
                "width": width,
                "depth": depth,
                "heads": max(width // 64, 1),
                "hidden": int(inner.shape[1]),
                "gated": gated,
                "grid": round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
                **given,
            }
        )
    except ValueError as error:
        raise UserError(f"{FORMAT}: {error}; give num_heads") from error


def _shapes(module: DINOv2) -> dict[str, tuple[int, ...]]:
    x = jax.ShapeDtypeStruct((1, module.patch, module.patch, 3), jnp.float32)
    fresh = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return {k.removesuffix("/value"): v.shape for k, v in tree.flatten(fresh).items()}


def _entries(module: DINOv2, ours: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    def row(name: str, path: str, lead: int = 0) -> Entry:
        return entry(name, path, ours[path], shape=lambda shape: (*(1,) * lead, *shape))

    out = [
        row("cls_token", "class", 2),
        row("mask_token", "mask", 1),
        row("pos_embed", "positions"),
        *layout.conv("patch_embed.proj", "patches", ours),
        *layout.norm("norm", "norm", ours),
    ]
    first, last = ("w12", "w3") if module.gated else ("fc1", "fc2")
    for i in range(module.depth):
        name, path = f"blocks.{i}", f"block_{i}"
        out += [
            *layout.norm(f"{name}.norm1", f"{path}/norm1", ours),
            *layout.linear(f"{name}.attn.qkv", f"{path}/attention/qkv", ours),
            *joined(f"{name}.attn.proj", f"{path}/attention/out", ours),
            row(f"{name}.ls1.gamma", f"{path}/scale1"),
            *layout.norm(f"{name}.norm2", f"{path}/norm2", ours),
            *layout.linear(f"{name}.mlp.{first}", f"{path}/mlp/in", ours),
            *layout.linear(f"{name}.mlp.{last}", f"{path}/mlp/out", ours),
            row(f"{name}.ls2.gamma", f"{path}/scale2"),
        ]
    return out
