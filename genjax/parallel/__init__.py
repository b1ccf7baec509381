"""Meshes, the table from logical axis names to mesh axes, multi-process start and global arrays."""

from genjax.parallel.arrays import (
    batch_parts,
    batch_sharding,
    check_batch,
    host_shard,
    replicated,
    to_global,
    to_host,
)
from genjax.parallel.chips import peak_flops
from genjax.parallel.compiler import options_for
from genjax.parallel.mesh import MeshSpec
from genjax.parallel.rules import (
    AXES,
    DEFAULT_RULES,
    Active,
    Rules,
    active,
    constrain,
    gather,
    platform,
    state_shardings,
    using,
)
from genjax.parallel.start import initialize

__all__ = [
    "AXES",
    "DEFAULT_RULES",
    "Active",
    "MeshSpec",
    "Rules",
    "active",
    "batch_parts",
    "batch_sharding",
    "check_batch",
    "constrain",
    "gather",
    "host_shard",
    "initialize",
    "options_for",
    "peak_flops",
    "platform",
    "replicated",
    "state_shardings",
    "to_global",
    "to_host",
    "using",
]
