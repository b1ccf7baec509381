"""From the rows that each process reads to arrays of all devices, and back."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.core.tree import map_with_path
from genjax.parallel.rules import Rules


def batch_sharding(mesh: Mesh, rules: Rules | None = None) -> NamedSharding:
    """Returns the sharding of an array whose leading axis is the batch."""
    return NamedSharding(mesh, PartitionSpec((rules or Rules()).axes("batch") or None))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch: int, mesh: Mesh, rules: Rules | None = None, key: str = "batch") -> None:
    """Raises `UserError` naming the config key unless the global batch splits evenly."""
    axes = (rules or Rules()).axes("batch")
    parts = batch_parts(mesh, rules)
    if batch < 1 or batch % parts:
        raise UserError(
            f"{key}={batch} is not divisible by the {parts} parts of mesh axis {'+'.join(axes)}; "
            f"choose a multiple of {parts}, or another mesh"
        )


def batch_parts(mesh: Mesh, rules: Rules | None = None) -> int:
    """Returns into how many parts the mesh splits a batch."""
    return int(np.prod([mesh.shape[a] for a in (rules or Rules()).axes("batch")], dtype=int))


def host_shard(mesh: Mesh, rules: Rules | None = None) -> tuple[int, int]:
    """Returns (index, count): this process reads part `index` of `count` of every global batch.

    It is (process index, process count) as long as every process has batch rows of its own.
    Processes that hold other parts of the same rows (a tensor axis across processes) get the same
    index and must read the same rows.

    Where the devices of a process are not neighbours along the batch, its rows are spread over the
    global array: every image is still read once, but stands in another row than on one process.
    """
    parts = batch_parts(mesh, rules)
    rows = batch_sharding(mesh, rules).devices_indices_map((parts,))
    held: dict[int, set[int]] = {}
    for device, (index,) in rows.items():
        held.setdefault(device.process_index, set()).add(index.indices(parts)[0])
    groups = sorted({tuple(sorted(mine)) for mine in held.values()})
    if sum(len(group) for group in groups) != parts or len({len(g) for g in groups}) != 1:
        raise UserError(
            "mesh: the processes' shares of the batch overlap or differ in size; choose data and "
            "fsdp so that their product is a multiple or a divisor of the number of processes"
        )
    return groups.index(tuple(sorted(held[jax.process_index()]))), len(groups)


def to_global(batch: Tree, mesh: Mesh, rules: Rules | None = None) -> Tree:
    """Returns global arrays [b, ...] from this process's rows (NumPy [b / count, ...]).

    `count` is that of `host_shard`. Raises `UserError` naming the field whose rows do not split
    evenly over this process's devices.
    """
    sharding = batch_sharding(mesh, rules)
    count = host_shard(mesh, rules)[1]

    def one(path: str, rows) -> jax.Array:
        rows = np.asarray(rows)
        check_batch(rows.shape[0] * count, mesh, rules, f'global batch of "{path}"')
        shape = (rows.shape[0] * count, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return map_with_path(one, batch)


def to_host(tree: Tree) -> Tree:
    """Returns the whole value of every array as NumPy, on every process (all must call it)."""

    def one(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)
