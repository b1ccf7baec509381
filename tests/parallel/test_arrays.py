import jax
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.parallel import (
    MeshSpec,
    Rules,
    batch_parts,
    check_batch,
    host_shard,
    replicated,
    to_global,
    to_host,
)


def test_rows_are_split_over_data_and_fsdp_in_order():
    mesh = MeshSpec(data=2, fsdp=2, tensor=2).build()
    rows = {"image": np.arange(24).reshape(8, 3), "label": np.arange(8, dtype=np.int32)}
    batch = to_global(rows, mesh)
    assert batch["image"].sharding.shard_shape((8, 3)) == (2, 3)
    assert batch["label"].dtype == np.int32
    back = to_host(batch)
    np.testing.assert_array_equal(back["image"], rows["image"])
    np.testing.assert_array_equal(back["label"], rows["label"])
    assert host_shard(mesh) == (0, 1) and batch_parts(mesh) == 4


def test_the_batch_rule_decides():
    mesh = MeshSpec(data=2, fsdp=4).build()
    rules = Rules({"batch": "data"})
    assert batch_parts(mesh, rules) == 2
    assert to_global(np.zeros((6, 1)), mesh, rules).sharding.shard_shape((6, 1)) == (3, 1)
    whole = to_global(np.zeros((3, 1)), mesh, Rules({"batch": None}))
    assert whole.is_fully_replicated


def test_indivisible_batch_names_field_and_parts():
    mesh = MeshSpec(data=4, fsdp=2).build()
    with pytest.raises(UserError, match=r'"main/image"=6 is not divisible by the 8 parts'):
        to_global({"main": {"image": np.zeros((6, 1))}}, mesh)
    with pytest.raises(UserError, match=r"data\.main\.batch=12 .* multiple of 8"):
        check_batch(12, mesh, key="data.main.batch")
    check_batch(16, mesh)
    with pytest.raises(UserError, match="=0 "):
        check_batch(0, mesh)


def test_replicated_is_whole_everywhere():
    mesh = MeshSpec().build()
    assert jax.device_put(np.ones(4), replicated(mesh)).is_fully_replicated
