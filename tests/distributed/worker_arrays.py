"""Builds a global array from each process's rows, sums it and draws random numbers for it."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys
from genjax.parallel import MeshSpec, batch_sharding, host_shard, initialize, to_global, to_host

initialize()
mesh = MeshSpec(**json.loads(sys.argv[1])).build()
index, count = host_shard(mesh)
BATCH = 16
rows = np.arange(BATCH, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
local = rows[index * BATCH // count : (index + 1) * BATCH // count]
batch = to_global({"x": local}, mesh)["x"]


@jax.jit
def weighted(x):
    return jnp.sum(x * jnp.arange(1.0, BATCH + 1)[:, None])


draw = jax.jit(
    lambda: keys.normal(keys.per_sample(keys.key(0, "sample"), jnp.arange(BATCH)), (2,)),
    out_shardings=batch_sharding(mesh),
)
print(
    json.dumps(
        {
            "processes": jax.process_count(),
            "devices": jax.device_count(),
            "shard": [index, count],
            "sum": float(weighted(batch)),
            "rows": to_host(batch)[:, 0].tolist(),
            "noise": to_host(draw()).tolist(),
        }
    )
)
