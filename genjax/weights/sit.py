"""SiT state dicts (willisma/SiT), which are DiT's ("sit").

SiT predicts one set of channels. With `learn_sigma`, as the published weights are, its last layer
computes a second set that the network drops: here those columns are cut off, and kept as
`constants` so that they come out as they came in.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from genjax.core.arrays import Tree
from genjax.models.dit import DiT
from genjax.weights import dit

FORMAT = "sit"
constants, facts = dit.constants, dit.facts
_UNUSED = ("unused_kernel", "unused_bias")


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[DiT, dict[str, Tree]]:
    """Returns the module (one set of channels) and its variables; `fields` and errors as DiT's."""
    module, variables = dit.load(tensors, format=FORMAT, **fields)
    if not module.learn_sigma:
        return module, variables
    final = variables["params"]["final"]
    halves = [_halves(final[key], module.patch) for key in ("kernel", "bias")]
    variables["params"]["final"] = {"kernel": halves[0][0], "bias": halves[1][0]}
    unused = dict(zip(_UNUSED, (half[1] for half in halves)))
    variables["constants"] = {**variables.get("constants", {}), **unused}
    return module.clone(learn_sigma=False), variables


def save(module: DiT, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the reference's names, with the dropped channels if they were kept."""
    constants = variables.get("constants", {})
    if not all(key in constants for key in _UNUSED):
        return dit.save(module, variables, format=FORMAT)
    params = nn.unbox(variables["params"])
    final = {
        key: _join(np.asarray(params["final"][key]), np.asarray(constants[unused]), module.patch)
        for key, unused in zip(("kernel", "bias"), _UNUSED)
    }
    whole = {**variables, "params": {**params, "final": final}}
    return dit.save(module.clone(learn_sigma=True), whole, format=FORMAT)


def _halves(value: np.ndarray, patch: int) -> list[np.ndarray]:
    """[..., p p 2C], channels fastest -> the first and the second C channels, [..., p p C] each."""
    split = np.split(value.reshape(*value.shape[:-1], patch * patch, -1), 2, axis=-1)
    return [np.ascontiguousarray(half).reshape(*value.shape[:-1], -1) for half in split]


def _join(first: np.ndarray, second: np.ndarray, patch: int) -> np.ndarray:
    head = first.shape[:-1]
    parts = [half.reshape(*head, patch * patch, -1) for half in (first, second)]
    return np.concatenate(parts, axis=-1).reshape(*head, -1)
