"""FID Inception-v3 state dicts in the layout of pytorch-fid and torch-fidelity ("fid-inception").

`pt_inception-2015-12-05-6726825d.pth` is such a file. Counters of batches are kept as they came.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.inception import FIDInception
from genjax.weights import names

FORMAT = "fid-inception"
_COUNTER = "num_batches_tracked"
_LEAVES = {
    "kernel": "conv.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "var": "bn.running_var",
}


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[FIDInception, dict[str, Tree]]:
    """Returns the network and its variables (params, batch_stats, counters as constants).

    `fields`: `protocol`, how pixels reach the network (pytorch-fid, tf-legacy, clean-fid).
    """
    unknown = set(fields) - {"protocol"}
    if unknown:
        raise UserError(f"{FORMAT}: unknown field {sorted(unknown)[0]!r}; known: protocol")
    if "fc.weight" not in tensors:
        raise UserError(f"{FORMAT}: no tensor fc.weight; this is no Inception network of FID")
    try:
        module = FIDInception(classes=len(tensors["fc.weight"]), **fields)
    except ValueError as error:
        raise UserError(f"{FORMAT}: {error}") from error
    shapes = _shapes(module)
    wanted = {_name(path): _theirs(path, shape) for path, shape in shapes.items()}
    counters = {f"{p.removesuffix('.bn.bias')}.bn.{_COUNTER}" for p in wanted if "bn.bias" in p}
    names.check(FORMAT, tensors, wanted | dict.fromkeys(counters, ()), frozenset(counters))
    found: dict[str, np.ndarray] = {}
    for path in shapes:
        value = np.asarray(tensors[_name(path)])
        found[path] = np.ascontiguousarray(value.transpose(_order(value.ndim)))
    variables = tree.nested(found)
    kept = {name: np.asarray(tensors[name]) for name in sorted(counters) if name in tensors}
    return module, variables | ({"constants": kept} if kept else {})


def save(module: FIDInception, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the file's names."""
    own = {key: variables[key] for key in ("params", "batch_stats")}
    out = {}
    for path, leaf in tree.flatten(nn.meta.unbox(own)).items():
        value = np.asarray(leaf)
        out[_name(path)] = np.ascontiguousarray(value.transpose(np.argsort(_order(value.ndim))))
    return out | {name: np.asarray(v) for name, v in variables.get("constants", {}).items()}


def _shapes(module: FIDInception) -> dict[str, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    fresh = jax.eval_shape(module.init, jax.random.key(0), images)
    return {k: v.shape for k, v in tree.flatten(nn.meta.unbox(fresh)).items()}


def _name(path: str) -> str:
    """params/Mixed_5b/branch1x1/kernel -> Mixed_5b.branch1x1.conv.weight."""
    parts = path.split("/")[1:]
    if parts[0] == "fc":
        return "fc.weight"
    if parts[0] == "fc_bias":
        return "fc.bias"
    return ".".join([*parts[:-1], _LEAVES[parts[-1]]])


def _order(rank: int) -> tuple[int, ...]:
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(rank, tuple(range(rank)))


def _theirs(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in np.argsort(_order(len(shape))))
