"""Paths, masks and sizes of parameter trees."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from genjax.core.arrays import Tree
from genjax.core.errors import UserError


def path_string(path) -> str:
    """Returns "a/b/0/c" for a JAX key path."""
    return "/".join(str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in path)


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns the leaves by path, in tree order."""
    return {path_string(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def put(tree: dict, path: str, value: Any) -> None:
    """Sets what stands at "a/b/c" in nested dicts, which are made where they are missing."""
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def nested(leaves: Mapping[str, Any]) -> dict:
    """Returns the nested dicts of leaves by path: the inverse of `flatten` for trees of dicts."""
    tree: dict = {}
    for path, leaf in leaves.items():
        put(tree, path, leaf)
    return tree


def map_with_path(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Maps `fn(path, leaf, ...)` over the leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(path_string(path), *leaves), tree, *rest
    )


def by_rules(tree: Tree, rules: Sequence[tuple[str, Any]], what: str) -> Tree:
    """Returns for every leaf the value of the first rule whose regex is found in its path.

    Raises `UserError` if a leaf has no rule, or a rule matches no leaf: a mask that silently
    covers too little, or nothing, is how a network is trained with the wrong settings.
    """
    used: set[str] = set()

    def value(path, _):
        for pattern, result in rules:
            if re.search(pattern, path):
                used.add(pattern)
                return result
        raise UserError(f'{what}: no rule covers parameter "{path}"; add one, such as (".*", ...)')

    result = map_with_path(value, tree)
    for pattern, _ in rules:
        if pattern not in used and pattern != ".*":
            raise UserError(f'{what}: the pattern "{pattern}" decides no parameter; correct it')
    return result


def size(tree: Tree) -> int:
    """Returns the number of scalars in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """Returns the bytes of all leaves (of abstract ones too)."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def cast(tree: Tree, dtype) -> Tree:
    """Returns the tree with its floating-point leaves in `dtype`."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x, tree
    )
