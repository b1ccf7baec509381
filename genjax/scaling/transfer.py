"""muP: learning rates that transfer over width (Yang et al. 2021, arXiv 2203.03466, table 3, Adam).

Under Adam a matrix whose inputs grow with the width takes steps 1 / fan-in as large: multipliers of
the learning rate by parameter, found by comparing the shapes of a network with those of its base.
Vectors, tables and projections from a fixed number of inputs keep the rate. Two more parts of muP
ask for nothing here: the output starts at 0 in the networks that this is for (DiT), and attention's
1/d instead of 1/sqrt(d) is the same where heads keep their channels, which is checked.
"""

import re
from typing import Any

import jax
from flax.linen import meta

from genjax.core.errors import UserError
from genjax.core.tree import path_string

_HEAD, _LAYERS = "kv", "layers"


def multipliers(params: Any, base: Any) -> tuple[tuple[str, float], ...]:
    """Returns (regex, factor) of every matrix whose inputs differ in width, and (".*", 1.0).

    `params`, `base`: boxed trees of arrays or shapes, of networks of one kind. A kernel's inputs
    are all axes before its outputs; the first that is not the scan over layers tells their width.
    Raises `UserError` for networks of different parameters, or of heads of different widths.
    """
    ours, theirs = _leaves(params), _leaves(base)
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())[0]
        raise UserError(
            f"transfer: {odd} is in one of the two sizes alone; change widths, not kind"
        )
    rules = []
    for path, (names, shape) in ours.items():
        other = theirs[path][1]
        for name, a, b in zip(names, shape, other):
            if name == _HEAD and a != b:
                raise UserError(
                    f"transfer: heads have {a} channels here and {b} in the base; change their "
                    "number with the width instead"
                )
        first = int(names[:1] == (_LAYERS,))
        if path.endswith("/kernel") and shape[first] != other[first]:
            rules.append((f"(^|/){re.escape(path)}$", other[first] / shape[first]))
    return (*rules, (".*", 1.0))


def _leaves(tree: Any) -> dict[str, tuple[tuple[str | None, ...], tuple[int, ...]]]:
    """Returns path -> (axis names, shape) of boxed parameters."""
    found = {}
    for keys, box in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_boxed)[0]:
        names = tuple(box.names) if _boxed(box) else (None,) * len(box.shape)
        value = box.value if _boxed(box) else box
        found[path_string(keys)] = names, tuple(value.shape)
    return found


def _boxed(x: Any) -> bool:
    return isinstance(x, meta.Partitioned)
