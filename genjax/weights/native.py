"""A network as a folder of its own: `weights.safetensors` with our paths, and `model.json`.

`genjax convert` writes it, `genjax.load` and `config.init` read it.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.core.tree import flatten, nested
from genjax.models import MODELS
from genjax.weights.io import read_tensors, write_safetensors

WEIGHTS, FACTS = "weights.safetensors", "model.json"


def is_native(path: str) -> bool:
    """Says whether the path is a folder that `write_native` wrote."""
    return all(os.path.isfile(os.path.join(path, name)) for name in (WEIGHTS, FACTS))


def write_native(
    path: str, module: nn.Module, variables: Mapping[str, Tree], facts: Mapping[str, Any]
) -> None:
    """Writes network and variables to the folder `path`.

    `facts`: what else to remember, "format" (the public layout it came in) above all.
    Raises `UserError` if the folder cannot be written.
    """
    record = {**facts, "network": _choice(module)}
    tensors = {name: np.asarray(leaf) for name, leaf in flatten(nn.unbox(dict(variables))).items()}
    write_safetensors(os.path.join(path, WEIGHTS), tensors)
    part = os.path.join(path, f"{FACTS}.part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
    os.replace(part, os.path.join(path, FACTS))


def read_native(path: str) -> tuple[nn.Module, dict[str, Tree], dict[str, Any]]:
    """Returns the network, its variables (numpy) and the facts (with "network": its config)."""
    if not is_native(path):
        raise UserError(f"{path}: no folder of `genjax convert` ({WEIGHTS} and {FACTS})")
    try:
        with open(os.path.join(path, FACTS), encoding="utf-8") as file:
            facts = json.load(file)
        network = facts["network"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{os.path.join(path, FACTS)}: not readable ({error})") from error
    module = MODELS.build(network, f"{FACTS}: network")
    variables = nested(read_tensors(os.path.join(path, WEIGHTS)))
    if "params" not in variables:
        raise UserError(f"{os.path.join(path, WEIGHTS)}: holds no tensor params/...; convert again")
    return module, variables, facts


def _choice(module: nn.Module) -> dict[str, Any]:
    """Returns the `{"name": ..., fields...}` that builds the module again."""
    name = next((n for n, cls in MODELS.entries.items() if type(module) is cls), None)
    if name is None:
        raise UserError(f"{type(module).__name__} is none of the networks {list(MODELS.entries)}")
    fields = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]  # pyright: ignore[reportArgumentType]
    return {"name": name, **{field: getattr(module, field) for field in fields}}
