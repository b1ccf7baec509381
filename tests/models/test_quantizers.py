"""Quantisers against brute force in float64 and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.models import quantizers
from genjax.models.quantizers import QUANTIZERS


def vq(size=16, dim=4, **fields):
    module = QUANTIZERS.build({"name": "vq", "size": size, "dim": dim, **fields})
    table = np.random.default_rng(0).normal(size=(size, dim)).astype(np.float32)
    return module, {"params": {"table": jnp.asarray(table)}}, table.astype(np.float64)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("l2", [True, False])
@pytest.mark.parametrize("rows", [7, 2048])  # in pieces that do not divide the table, and at once
def test_the_nearest_code_is_that_of_brute_force(l2, rows, monkeypatch):
    monkeypatch.setattr(quantizers, "_ROWS", rows)
    module, variables, table = vq(50, 6, l2=l2)
    z = np.random.default_rng(1).normal(size=(3, 40, 6)).astype(np.float32)
    found = module.apply(variables, z)
    points, codes = z.astype(np.float64), table
    if l2:
        points, codes = unit(points), unit(codes)
    distance = ((points[..., None, :] - codes) ** 2).sum(-1)
    assert found.index.dtype == jnp.int32
    np.testing.assert_array_equal(found.index, distance.argmin(-1))
    np.testing.assert_allclose(found.z_q, codes[distance.argmin(-1)], atol=1e-6)
    np.testing.assert_array_equal(
        found.z_q, module.apply(variables, found.index, method="lookup")
    )  # exactly: decode(encode(x)) is what training saw


def test_every_row_is_its_own_code_and_a_permuted_table_permutes_codes():
    module, variables, table = vq(8192, 32)
    index = module.apply(variables, table.astype(np.float32)).index
    np.testing.assert_array_equal(index, np.arange(8192))
    order = np.random.default_rng(2).permutation(8192)
    permuted = {"params": {"table": table.astype(np.float32)[order]}}
    z = table[:50].astype(np.float32) + 0.01
    found = module.apply(permuted, z)
    np.testing.assert_array_equal(order[found.index], module.apply(variables, z).index)
    norms = jnp.linalg.norm(found.z_q, axis=-1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-6)


@pytest.mark.parametrize(("degrees", "want"), [(60, 0.0390625), (90, 0.078125)])
def test_the_loss_on_the_sphere(degrees, want):
    # 1.25 (2 - 2 cos) / 32
    module = QUANTIZERS.build({"name": "vq", "size": 1, "dim": 32})
    table = np.zeros((1, 32), np.float32)
    table[0, 0] = 3.0
    z = np.zeros((1, 32), np.float32)
    z[0, :2] = 5 * np.cos(np.radians(degrees)), 5 * np.sin(np.radians(degrees))
    losses = module.apply({"params": {"table": table}}, z).losses
    assert float(losses["codebook"][0] + losses["commitment"][0]) == pytest.approx(want, rel=1e-5)
    assert float(losses["commitment"][0]) == pytest.approx(want / 5, rel=1e-5)


def test_gradients_go_where_the_paper_sends_them():
    module, variables, _ = vq()
    rng = np.random.default_rng(3)
    z = rng.normal(size=(5, 4)).astype(np.float32)
    weight = rng.normal(size=(5, 4)).astype(np.float32)

    def term(name):
        return lambda v, z: jnp.sum(module.apply(v, z).losses[name])

    table, point = jax.grad(term("codebook"), argnums=(0, 1))(variables, z)
    table = table["params"]["table"]
    assert not np.any(point) and np.any(table)
    used = np.zeros(16, bool)
    used[np.asarray(module.apply(variables, z).index)] = True
    assert np.all(np.any(table != 0, axis=1) == used)  # exactly zero elsewhere
    table, point = jax.grad(term("commitment"), argnums=(0, 1))(variables, z)
    assert not np.any(table["params"]["table"]) and np.any(point)

    def passed(v, z, module=module):
        return jnp.sum(module.apply(v, z).z_q * weight)

    table, point = jax.grad(passed, argnums=(0, 1))(variables, z)
    assert not np.any(table["params"]["table"])
    # through (I - u u^T)/|z|: orthogonal to z
    u = unit(z.astype(np.float64))
    want = (weight - u * (u * weight).sum(-1, keepdims=True)) / np.linalg.norm(z, axis=-1)[:, None]
    np.testing.assert_allclose(point, want, atol=1e-5)
    assert np.abs((point * z).sum(-1)).max() < 1e-5
    raw = module.clone(straight_through="raw")
    np.testing.assert_array_equal(jax.grad(lambda z: passed(variables, z, raw))(z), weight)
    assert np.all(np.isfinite(jax.grad(lambda z: passed(variables, z))(np.zeros_like(z))))


def test_dead_codes_move_to_the_points_and_others_stay():
    module, variables, table = vq()
    dead = np.arange(16) % 3 == 0
    points = np.random.default_rng(4).normal(size=(16, 4)).astype(np.float32)
    new = np.asarray(module.revived(variables["params"], dead, points)["table"])
    np.testing.assert_array_equal(new[~dead], table[~dead].astype(np.float32))
    want = unit(points) * np.linalg.norm(table, axis=1, keepdims=True)
    np.testing.assert_allclose(new[dead], want[dead], rtol=1e-5)


@pytest.mark.parametrize("levels", [(3,), (3, 5), (8, 5, 4, 3), (8, 8, 8, 5, 5)])
def test_fsq_is_a_bijection_and_reaches_every_code(levels):
    module = QUANTIZERS.build({"name": "fsq", "levels": levels})
    assert module.size == np.prod(levels) and module.dim == len(levels)
    index = jnp.arange(module.size)
    codes = module.apply({}, index, method="lookup")
    assert len(np.unique(np.asarray(codes), axis=0)) == module.size
    assert np.abs(codes).max() <= 1
    # the vectors whose squashed value is the code itself, written out anew
    n = np.asarray(levels)
    reach, offset = (n - 1) / 2 * (1 + 1e-3), np.where(n % 2, 0, 0.5)
    whole = np.asarray(codes, np.float64) * (n // 2)
    z = np.arctanh((whole + offset) / reach) - np.arctanh(offset / reach)
    found = module.apply({}, z)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.z_q, codes)
    far = module.apply({}, jnp.asarray([[-1e3] * len(levels), [1e3] * len(levels)])).index
    assert far.tolist() == [0, module.size - 1]
    slope = jax.grad(lambda z: jnp.sum(module.apply({}, z).z_q))(jnp.zeros((1, len(levels))))
    assert np.all(slope > 0) and not module.apply({}, jnp.zeros((1, len(levels)))).losses


def test_lfq_is_a_bijection_with_its_losses():
    module = QUANTIZERS.build({"name": "lfq", "bits": 5, "entropy": 1.0})
    assert (module.size, module.dim) == (32, 5)
    codes = module.apply({}, jnp.arange(32), method="lookup")
    assert set(np.unique(codes)) == {-1.0, 1.0}
    found = module.apply({}, 0.7 * codes)
    np.testing.assert_array_equal(found.index, np.arange(32))
    np.testing.assert_array_equal(found.z_q, codes)
    np.testing.assert_allclose(found.losses["commitment"], 0.25 * 0.3**2, rtol=1e-5)
    # every code once, each far from 0: a vector's entropy is 0, the batch's is 5 bits
    sure = module.apply({}, 20 * codes).losses["entropy"]
    np.testing.assert_allclose(sure, -5 * np.log(2), rtol=1e-5)
    unsure = module.apply({}, jnp.zeros((8, 5))).losses["entropy"]
    np.testing.assert_allclose(unsure, 0, atol=1e-5)
    gradient = jax.grad(lambda z: jnp.sum(module.apply({}, z).z_q))(0.7 * codes)
    np.testing.assert_array_equal(gradient, np.ones((32, 5)))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "vq", "size": 0}, "at least 1"),
        ({"name": "vq", "straight_through": "half"}, "half"),
        ({"name": "fsq", "levels": (1, 3)}, "levels"),
        ({"name": "lfq", "bits": 31}, "bits"),
        ({"name": "lfq", "temperature": 0.0}, "temperature"),
    ],
)
def test_wrong_fields_are_refused(choice, message):
    with pytest.raises(UserError, match=message):
        QUANTIZERS.build(choice)
