"""Options of XLA's compiler, each for the platform whose compiler knows it."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

_PLATFORMS = {"xla_tpu_": "tpu", "xla_jf_": "tpu", "xla_gpu_": "gpu", "xla_cpu_": "cpu"}


def options_for(mesh: Mesh, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the wanted options that the mesh's compiler is to be told.

    A name that begins with a platform's prefix is for that platform, any other is for all.
    """
    here = mesh.devices.flat[0].platform
    here = "gpu" if here in ("cuda", "rocm") else here
    theirs = {
        name: next((p for prefix, p in _PLATFORMS.items() if name.startswith(prefix)), here)
        for name in wanted
    }
    return {name: value for name, value in wanted.items() if theirs[name] == here}
