"""Weight files of KL autoencoders in the layout of diffusers ("diffusers-vae").

Our submodules carry the files' names with `.N` written `_N`, so names convert by one regular
expression; only the attention has had several names and layouts. Tensors keep their dtype, so
that what is saved is what was loaded, bit for bit.
"""

import json
import os
import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.vae import KLVAE
from genjax.weights import names

FORMAT = "diffusers-vae"
WEIGHTS_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

# Keys of a configuration file that say nothing about the network.
_IGNORED = {
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
}
# Keys of a configuration file of which we know one value, or a list of that value.
_FIXED = {
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}
_GIVEN_ONLY = ("norm_num_groups", "dtype", "attention_layout")  # no tensor's shape tells these
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def load(tensors: Mapping[str, np.ndarray], **fields) -> tuple[KLVAE, dict[str, Tree]]:
    """Returns the module and {"params": tree} of the file's tensors.

    `fields`: the configuration file's values under its names (and `dtype`). What the tensors tell
    need not be given, and is checked where it is; `norm_num_groups` is 32 unless given. Raises
    `UserError` for other architectures, missing, unknown or wrongly shaped tensors.
    """
    module = KLVAE(**_fields(tensors, fields))
    layout, shapes = module.attention_layout, _shapes(module)
    wanted = {_name(path, layout): _torch_shape(s, path, layout) for path, s in shapes.items()}
    names.check(FORMAT, tensors, wanted)
    params = {path: _from_torch(tensors[_name(path, layout)], path) for path in shapes}
    return module, {"params": tree.nested(params)}


def save(module: KLVAE, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors of the file, named and laid out as `module.attention_layout` says."""
    layout = module.attention_layout
    params = tree.flatten(nn.meta.unbox(variables["params"]))
    return {
        _name(path, layout): _to_torch(np.asarray(leaf), path, layout)
        for path, leaf in params.items()
    }


def locate(path: str) -> tuple[str, dict]:
    """Returns the weight file and the fields of the `config.json` beside it ({} without one).

    `path` is a file, a folder with one of the usual names, or a pipeline folder with `vae/`.
    """
    if os.path.isdir(path):
        folders = [path, os.path.join(path, "vae")]
        files = [os.path.join(d, n) for d in folders for n in WEIGHTS_NAMES]
        found = [f for f in files if os.path.isfile(f)]
        if not found:
            raise UserError(f"{path}: no {' or '.join(WEIGHTS_NAMES)} in this folder or its vae/")
        path = found[0]
    config = os.path.join(os.path.dirname(path), "config.json")
    if not os.path.isfile(config):
        return path, {}
    try:
        with open(config, encoding="utf-8") as file:
            fields = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{config}: not a readable JSON file ({error})") from error
    if not isinstance(fields, dict) or fields.get("_class_name", "AutoencoderKL") != (
        "AutoencoderKL"
    ):
        return path, {}  # another thing's configuration
    return path, {k: v for k, v in fields.items() if not k.startswith("_")}


def _fields(tensors: Mapping[str, np.ndarray], given: Mapping) -> dict:
    """Returns the module's fields: what the tensors tell, completed by `given`."""
    told = _infer(tensors)
    out = dict(told)
    for key, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        if key in _FIXED:
            values = value if isinstance(value, tuple) else (value,)
            if any(v != _FIXED[key] for v in values):
                raise UserError(f"{FORMAT}: {key} is {value!r}; only {_FIXED[key]!r} is supported")
        elif key in _GIVEN_ONLY:
            out[key] = value
        elif key in told:
            if value != told[key]:
                raise UserError(
                    f"{FORMAT}: {key} is given as {value!r} but the tensors are those of "
                    f"{told[key]!r}; drop the key or take the right file"
                )
        elif key not in _IGNORED and not key.startswith("_"):
            known = sorted({*told, *_GIVEN_ONLY, *_FIXED, *_IGNORED})
            raise UserError(f"{FORMAT}: unknown field {key!r}; known: {', '.join(known)}")
    try:
        KLVAE(**out)
    except ValueError as error:
        raise UserError(f"{FORMAT}: {error}; give norm_num_groups") from error
    return out


def _infer(tensors: Mapping[str, np.ndarray]) -> dict:
    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            some = ", ".join(sorted(tensors)[:3])
            raise UserError(
                f"{FORMAT}: no tensor {name!r}; this is no KL autoencoder in the layout of "
                f"diffusers (its tensors start with {some or 'nothing'})"
            )
        return tensors[name].shape

    first = "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    levels = _count(tensors, lambda i: first.format(i, 0))
    mid = "encoder.mid_block.attentions.0."
    old = mid + "query.weight" in tensors
    query = tensors.get(mid + ("query.weight" if old else "to_q.weight"))
    conv = "-conv" if query is not None and query.ndim == 4 else ""
    out = {
        "in_channels": shape("encoder.conv_in.weight")[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "latent_channels": shape("decoder.conv_in.weight")[1],
        "block_out_channels": tuple(shape(first.format(i, 0))[0] for i in range(max(levels, 1))),
        "layers_per_block": _count(tensors, lambda j: first.format(0, j)),
        "mid_block_add_attention": query is not None,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        "attention_layout": ("query" if old else "to_q") + conv,
    }
    return {k: tuple(map(int, v)) if isinstance(v, tuple) else v for k, v in out.items()}


def _count(tensors: Mapping, name) -> int:
    n = 0
    while name(n) in tensors:
        n += 1
    return n


def _shapes(module: KLVAE) -> dict[str, tuple[int, ...]]:
    side = module.factor
    x = jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return {k: v.shape for k, v in tree.flatten(nn.meta.unbox(variables["params"])).items()}


def _name(path: str, layout: str) -> str:
    """Returns the file's name of a parameter, "a/down_blocks_0_resnets_1/b/kernel" for example."""
    name = re.sub(r"_(\d+)_", r".\1.", path.replace("/", "."))
    name = re.sub(r"_(\d+)\.", r".\1.", name)
    name = re.sub(r"\.(kernel|scale)$", ".weight", name)
    if layout.startswith("query"):
        for new, old in _OLD_NAMES.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name


def _is_matrix(path: str) -> bool:
    return "/attentions_0/to_" in path and path.endswith("/kernel")


def _torch_shape(shape: tuple[int, ...], path: str, layout: str) -> tuple[int, ...]:
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    return (*shape[::-1], 1, 1) if _is_matrix(path) and layout.endswith("-conv") else shape[::-1]


def _from_torch(value: np.ndarray, path: str) -> np.ndarray:
    """[o, i, h, w] -> [h, w, i, o] and [o, i(, 1, 1)] -> [i, o] for the attention's matrices."""
    if _is_matrix(path):
        return np.ascontiguousarray(value.reshape(value.shape[:2]).T)
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if value.ndim == 4 else value


def _to_torch(value: np.ndarray, path: str, layout: str) -> np.ndarray:
    if _is_matrix(path):
        return np.ascontiguousarray(value.T).reshape(_torch_shape(value.shape, path, layout))
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value
