"""Grafting weights onto a network that they need not fit entirely."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.models.dit import DiT
from genjax.weights.report import graft


def params_of(**changes):
    fields = {"patch": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 10} | changes
    module = DiT(**fields)
    x = jnp.zeros((1, 8, 8, 3))
    variables = jax.jit(module.init)(jax.random.key(changes.get("depth", 0)), x, jnp.zeros(1))
    return nn.unbox(variables["params"])


def test_the_same_network_takes_everything_over():
    params = params_of()
    source = jax.tree.map(lambda p: np.asarray(p + 1, np.float64), params)
    out, report = graft(params, source)
    assert len(report.matched) == len(jax.tree.leaves(params))
    assert report.missing == report.unused == report.replaced == report.resized == ()
    assert str(report) == f"{len(report.matched)} tensors matched"
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(params)):
        assert a.dtype == b.dtype and a.sharding == b.sharding
        np.testing.assert_allclose(a, b + 1)


def test_other_classes_and_outputs_keep_their_initial_values():
    params = params_of(num_classes=3, learn_sigma=False, qk_norm=True)
    source = params_of()
    source["extra"] = {"kernel": np.ones(3)}
    out, report = graft(params, source)
    assert set(report.replaced) == {"label/table", "final/kernel", "final/bias"}
    assert set(report.missing) == {f"blocks/attention/{n}_norm/scale" for n in "qk"}
    assert report.unused == ("extra/kernel",)
    assert out["label"]["table"] is params["label"]["table"]
    np.testing.assert_array_equal(out["time"]["in"]["kernel"], source["time"]["in"]["kernel"])


@pytest.mark.parametrize("path", ["pos_embed", "positions/table"])
def test_position_tables_are_resized(path):
    def nested(value):
        for name in reversed(path.split("/")):
            value = {name: value}
        return value | {"other": jnp.ones(2)}

    rows, cols = np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij")
    linear = np.stack([rows, cols], -1).reshape(1, 16, 2)
    out, report = graft(nested(jnp.zeros((1, 64, 2))), nested(linear))
    assert report.resized == (path,)
    grid = np.asarray(out["pos_embed"] if path == "pos_embed" else out["positions"]["table"])
    grid = grid.reshape(8, 8, 2)
    # A linear ramp stays one away from the edges, at half the step.
    np.testing.assert_allclose(grid[1:-1, 0, 0], np.arange(6) / 2 + 0.25, atol=1e-6)
    np.testing.assert_allclose(grid[0, 1:-1, 1], np.arange(6) / 2 + 0.25, atol=1e-6)


def test_another_size_is_refused_by_name():
    with pytest.raises(UserError, match=r"tensor blocks/attention/out/bias has shape \(3, 16\)"):
        graft(params_of(), params_of(depth=3))
    with pytest.raises(UserError, match="no tensor of the weights fits the network"):
        graft(params_of(), {"conv": np.ones(3)})


def test_grafting_may_be_traced():
    params, source = params_of(), jax.device_get(params_of(depth=2))
    out = jax.jit(lambda p: graft(p, source)[0])(params)
    np.testing.assert_array_equal(out["time"]["out"]["kernel"], source["time"]["out"]["kernel"])
