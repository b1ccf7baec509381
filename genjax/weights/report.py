"""Starting a network from weights that need not fit it entirely, with a report of what did."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.core.tree import flatten, map_with_path

# What depends on the data set rather than on the network: rows of labels, channels of the image.
REPLACEABLE = (r"(^|/)label/table$", r"(^|/)patch_embed/", r"(^|/)final/", r"(^|/)head/")
# Learned position tables [tokens, d], or [1, tokens, d], of a square grid.
POSITIONS = r"(^|/)(pos_embed|positions?)(/table)?$"


@dataclasses.dataclass(frozen=True)
class Report:
    """Parameter paths by what became of them.

    matched: taken over; resized: taken over on another grid; replaced: of another shape, so they
    keep their initial values; missing: not in the source; unused: in the source only.
    """

    matched: tuple[str, ...]
    resized: tuple[str, ...]
    replaced: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        for field in ("resized", "replaced", "missing", "unused"):
            names = getattr(self, field)
            if names:
                parts.append(f"{len(names)} {field} ({', '.join(names)})")
        return "; ".join(parts)


def graft(
    params: Tree, source: Tree, *, replaceable: tuple[str, ...] = REPLACEABLE
) -> tuple[Tree, Report]:
    """Returns `params` with the values of `source` wherever path and shape agree, and the report.

    Values take the dtype (and the sharding) of the parameter. A position table of another square
    grid is resized. Parameters whose path a regex of `replaceable` finds keep their initial
    values where shapes differ; any other difference of shape raises `UserError` naming the
    tensor, as does a source of which nothing fits.
    """
    given = flatten(source)
    status: dict[str, list[str]] = {"matched": [], "resized": [], "replaced": [], "missing": []}

    def one(path: str, leaf):
        if path not in given:
            status["missing"].append(path)
            return leaf
        value = np.asarray(given[path])
        if value.shape == leaf.shape:
            status["matched"].append(path)
            return _like(value, leaf)
        resized = _resized(value, leaf.shape) if re.search(POSITIONS, path) else None
        if resized is not None:
            status["resized"].append(path)
            return _like(resized, leaf)
        if any(re.search(pattern, path) for pattern in replaceable):
            status["replaced"].append(path)
            return leaf
        raise UserError(
            f"the weights' tensor {path} has shape {value.shape}, the network needs {leaf.shape}; "
            "choose the size of the network that the weights are of"
        )

    out = map_with_path(one, params)
    if not status["matched"]:
        raise UserError(
            f"no tensor of the weights fits the network: they hold {', '.join(list(given)[:3])}, "
            f"it needs {', '.join(list(flatten(params))[:3])}"
        )
    unused = tuple(path for path in given if path not in flatten(params))
    return out, Report(**{k: tuple(v) for k, v in status.items()}, unused=unused)


def _like(value: np.ndarray, leaf):
    value = value.astype(leaf.dtype)
    traced = isinstance(leaf, Tracer)
    return (
        jax.device_put(value, leaf.sharding) if not traced and hasattr(leaf, "sharding") else value
    )


def _resized(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the table on the new grid, or None where either grid is not square."""
    if value.ndim != len(shape) or value.shape[-1] != shape[-1] or value.size == 0:
        return None
    old, new = round(value.shape[-2] ** 0.5), round(shape[-2] ** 0.5)
    if old * old != value.shape[-2] or new * new != shape[-2]:
        return None
    table = value.reshape(-1, value.shape[-1])
    if len(table) != old * old:
        return None
    grid = jnp.asarray(table, jnp.float32).reshape(old, old, -1)
    grid = jax.image.resize(grid, (new, new, shape[-1]), "bilinear", antialias=False)
    return np.asarray(grid).reshape(shape)
