"""`config.init.NETWORK`: a run that starts from weights, with a report of what fitted."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from genjax import weights
from genjax.checkpoint import Checkpoints, Workdir
from genjax.cli.trained import default_ema
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.dit import VARIANTS, DiT
from genjax.weights import native
from genjax.weights.report import graft


def warm_start(run: Any) -> Callable[[dict[str, Tree]], Mapping[str, Tree]]:
    """Returns the function that replaces initial parameters by those of `run.init`.

    The weights are read here, so that a wrong file stops the run before it writes anything.
    """
    sources = {
        name: read_weights(spec, name, **_told(getattr(run.task, name, None)))
        for name, spec in run.init.items()
    }

    def start(params: dict[str, Tree]) -> dict[str, Tree]:
        out = {}
        for name, tree in sources.items():
            out[name], report = graft(params[name], tree)
            if jax.process_index() == 0:
                print(f"init.{name} from {run.init[name]}: {report}")
        return out

    return start


def _told(module: Any) -> dict[str, Any]:
    """Returns what the config tells of a file: the heads of a DiT of no published size."""
    if not isinstance(module, DiT):
        return {}
    published = {(v["width"], v["depth"]) for v in VARIANTS.values()}
    return {} if (module.width, module.depth) in published else {"num_heads": module.heads}


def read_weights(spec: str, network: str, **fields: Any) -> Tree:
    """Returns the parameters that `spec` names: a workdir, a converted folder, or FORMAT:FILE.

    `fields`: what the tensors of a FORMAT:FILE do not tell (see `genjax.weights.load`).
    """
    format, colon, path = spec.partition(":")
    if colon and format in weights.FORMATS:
        return weights.load(format, path, **fields)[1]["params"]
    if native.is_native(spec):
        return native.read_native(spec)[1]["params"]
    workdir = Workdir(spec)
    if not workdir.exists("config.json"):
        raise UserError(
            f"config.init.{network}: {spec} is neither a workdir, nor a folder of `genjax "
            f"convert`, nor FORMAT:FILE with FORMAT one of {', '.join(weights.FORMATS)}"
        )
    config = workdir.read_json("config.json")["config"]
    params, _ = Checkpoints(workdir).restore_params(default_ema(config["ema"]))
    if network not in params:
        raise UserError(f"config.init.{network}: {spec} holds the networks {sorted(params)}")
    return params[network]
