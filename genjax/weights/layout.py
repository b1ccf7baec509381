"""Tensors of a file as views of our parameters: one table, read by loading and by saving.

Files number blocks that are stacked here, and split or interleave matrices that are fused here. An
`Entry` says where a file's tensor lies in one of our arrays, as indexing and transposition, so
that the same table fills our arrays from a file and a file from our arrays.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Tree
from genjax.weights import names


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file's tensor `name` of `shape`: our array at `path`, indexed by `index`, transposed.

    `axes` is the order of our axes (after indexing, from 0) in the file; the result is reshaped.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    index: tuple = ()
    axes: tuple[int, ...] | None = None

    def view(self, array: np.ndarray) -> np.ndarray:
        """Returns the part of our array that the tensor holds, its axes in the file's order."""
        part = array[self.index]
        return part if self.axes is None else part.transpose(self.axes)


def entry(name: str, path: str, ours: Sequence[int], axes=None, index=(), shape=None) -> Entry:
    """Returns the entry of our array of shape `ours` (the file's shape follows unless given)."""
    probe = Entry(name, path, (), tuple(index), axes)
    view = probe.view(np.broadcast_to(np.float32(0), tuple(ours)))
    return dataclasses.replace(probe, shape=tuple(shape(view.shape) if shape else view.shape))


def parameter_shapes(module: nn.Module, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the network's parameters for inputs [h, w, c]."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    fresh = jax.eval_shape(module.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), "float32"))
    return {k: v.shape for k, v in tree.flatten(nn.meta.unbox(fresh["params"])).items()}


def read(
    format: str,
    tensors: Mapping[str, np.ndarray],
    entries: Sequence[Entry],
    shapes: Mapping[str, tuple[int, ...]],
    others: Mapping[str, tuple[int, ...]],
    optional: frozenset[str] = frozenset(),
) -> Tree:
    """Returns our parameters, in the file's dtypes; raises `UserError` for wrong files.

    `shapes`: those of all our parameters; `others`: tensors of the file beside parameters.
    """
    wanted = {e.name: e.shape for e in entries} | dict(others)
    names.check(format, tensors, wanted, optional)
    parts: dict[str, list[Entry]] = {path: [] for path in shapes}
    for e in entries:
        parts[e.path].append(e)
    out = {}
    for path, shape in shapes.items():
        dtype = np.result_type(*{tensors[e.name].dtype for e in parts[path]})
        array = np.empty(shape, dtype)
        for e in parts[path]:
            view = e.view(array)
            view[...] = tensors[e.name].reshape(view.shape)
        out[path] = array
    return tree.nested(out)


def write(entries: Sequence[Entry], params: Tree) -> dict[str, np.ndarray]:
    """Returns the file's tensors of our parameters."""
    flat = {k: np.asarray(v) for k, v in tree.flatten(nn.meta.unbox(params)).items()}
    return {e.name: np.ascontiguousarray(e.view(flat[e.path])).reshape(e.shape) for e in entries}


def conv(name: str, path: str, ours: Mapping, index=()) -> list[Entry]:
    """Returns weight and bias of a convolution: [k, k, i, o] here, [o, i, k, k] there."""
    return [
        entry(f"{name}.weight", f"{path}/kernel", ours[f"{path}/kernel"], (3, 2, 0, 1), index),
        entry(f"{name}.bias", f"{path}/bias", ours[f"{path}/bias"], None, index),
    ]


def norm(name: str, path: str, ours: Mapping, index=()) -> list[Entry]:
    """Returns weight and bias of a normalisation."""
    return [
        entry(f"{name}.weight", f"{path}/scale", ours[f"{path}/scale"], None, index),
        entry(f"{name}.bias", f"{path}/bias", ours[f"{path}/bias"], None, index),
    ]


def linear(name: str, path: str, ours: Mapping, index=()) -> list[Entry]:
    """Returns the weight [o, i] there, [i, *o] here, and the bias where there is one."""
    kernel = ours[f"{path}/kernel"]
    rank = len(kernel) - len(index)
    axes = (*range(1, rank), 0)
    flat = lambda shape: (math.prod(shape[:-1]), shape[-1])  # noqa: E731
    out = [entry(f"{name}.weight", f"{path}/kernel", kernel, axes, index, flat)]
    if f"{path}/bias" in ours:
        whole = lambda shape: (math.prod(shape),)  # noqa: E731
        out.append(entry(f"{name}.bias", f"{path}/bias", ours[f"{path}/bias"], None, index, whole))
    return out
