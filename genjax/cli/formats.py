"""How networks of public weights are sampled: the tasks of the formats that `genjax.load` opens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.models.edm2 import EDM2Denoiser
from genjax.solvers import GUIDANCES
from genjax.tasks import Diffusion

_DDPM = {
    "process": {"name": "table", "betas": "linear", "n": 1000, "lo": 1e-4, "hi": 2e-2},
    "precond": {"name": "eps"},
    "objective": {"name": "hybrid"},
    "times": {"name": "index"},
    "sampler": {
        "solver": {"name": "ddpm", "variance": "learned"},
        "grid": {"name": "respaced"},
        "guidance": {"name": "cfg", "weight": 4.0, "channels": 3},
        "steps": 250,
    },
}
_SIT = {
    "process": {"name": "flow"},
    "precond": {"name": "velocity", "reverse": True},
    "objective": {"name": "flow"},
    "times": {"name": "uniform"},
    "sampler": {
        "solver": {"name": "sit_sde", "w": "sigma"},
        "grid": {"name": "uniform", "last": 0.04},
        "guidance": {"name": "cfg", "weight": 4.0, "channels": 3},
        "steps": 250,
    },
}
_EDM2 = {
    "process": {"name": "edm"},
    "precond": {"name": "edm"},
    "objective": {"name": "edm2"},
    "times": {"name": "lognormal", "mean": -0.4, "std": 1.0},
    "sampler": {
        "solver": {"name": "heun", "space": "lam"},
        "grid": {"name": "karras"},
        "guidance": {"name": "none"},
        "steps": 32,
    },
}
# How the authors of public weights sample them (weight 4 is their scripts'; their FID uses 1.5).
FORMATS = {"facebook-dit": _DDPM, "sit": _SIT, "edm2": _EDM2}


def task_of_format(name: str, module: Any, facts: Mapping[str, Any]) -> Diffusion:
    """Returns the task that samples a network of public weights as its authors did.

    `facts["shape"]`: height, width and channels of what the network sees. There is no codec, so
    its samples are what the network draws: latents, for DiT's and SiT's public weights.
    """
    if name not in FORMATS or "shape" not in facts:
        raise UserError(
            f"this {name} network cannot be sampled by itself: name it by config.init in a config"
        )
    changes: dict[str, Any] = {"image": tuple(facts["shape"])}
    if isinstance(module, EDM2Denoiser):  # the task brings its own c_skip x + c_out F
        changes["precond"] = {"name": "edm", "sigma_data": module.sigma_data}
        module = module.network
    fields = expand(Diffusion, {**FORMATS[name], **changes}, "task")
    task = dataclasses.replace(construct(Diffusion, fields, "task"), model=module)
    return task if task.has_null else task.with_sampler(guidance=GUIDANCES.build({"name": "none"}))
