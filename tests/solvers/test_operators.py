"""Measurements: orthonormal rows, colours, blocks, singular values, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.solvers import operators

SHAPE = (4, 6, 3)
RNG = np.random.default_rng(0)
MASK = RNG.integers(0, 2, SHAPE[:2])
MATRIX = RNG.normal(size=(5, 72))
MATRIX[4] = MATRIX[0] - 2 * MATRIX[1]  # rank 4
CASES = {
    "inpaint": (operators.inpaint(MASK, SHAPE), 3 * MASK.sum()),
    "colorize": (operators.colorize(SHAPE), 24),
    "super-resolve": (operators.super_resolve(2, SHAPE), 18),
    "linear": (operators.linear(MATRIX, SHAPE), 4),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_orthonormal(name):
    operator, size = CASES[name]
    basis = jnp.eye(72).reshape(72, *SHAPE)
    rows = np.asarray(jax.jit(lambda o, x: o.measure(x))(operator, basis)).reshape(72, -1).T
    assert rows.shape == (size, 72)
    np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=1e-6)
    # lift is the transpose
    u = jnp.asarray(RNG.normal(size=(2, *operator.measure(basis[:1]).shape[1:])), jnp.float32)
    lifted = np.asarray(operator.lift(u)).reshape(2, -1)
    np.testing.assert_allclose(lifted, np.asarray(u).reshape(2, -1) @ rows, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_replacement_changes_what_is_known_and_nothing_else(name):
    operator, _ = CASES[name]
    x, other = jnp.asarray(RNG.normal(size=(2, 3, *SHAPE)), jnp.float32)
    out = operator.replace(x, operator.measure(other))
    np.testing.assert_allclose(operator.measure(out), operator.measure(other), atol=1e-5)
    np.testing.assert_allclose(operator.unknown(out), operator.unknown(x), atol=1e-5)


def test_known_pixels_are_replaced_exactly():
    operator, _ = CASES["inpaint"]
    x = jnp.asarray(50 * RNG.normal(size=(3, *SHAPE)), jnp.float32)
    y = jnp.asarray(RNG.normal(size=(3, *SHAPE)), jnp.float32)
    out = np.asarray(operator.replace(x, operator.measure(y)))
    known = MASK.astype(bool)
    assert np.array_equal(out[:, known], np.asarray(y)[:, known])
    assert np.array_equal(out[:, ~known], np.asarray(x)[:, ~known])


def test_the_colour_basis():
    basis = operators.COLOUR_BASIS
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-15)
    published = [[0.577, -0.816, 0.0], [0.577, 0.408, 0.707], [0.577, 0.408, -0.707]]
    np.testing.assert_allclose(basis, published, atol=5e-4)
    grey = np.repeat(RNG.uniform(size=(5, 1)), 3, axis=1)
    turned = grey @ basis
    np.testing.assert_allclose(turned[:, 1:], 0, atol=1e-15)
    np.testing.assert_allclose(turned[:, 0], np.sqrt(3) * grey[:, 0])
    operator, _ = CASES["colorize"]
    image = jnp.asarray(np.broadcast_to(grey[0], SHAPE)[None], jnp.float32)
    np.testing.assert_allclose(operator.unknown(image), 0, atol=1e-6)


def test_blocks_are_means():
    operator, _ = CASES["super-resolve"]
    x = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    means = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(operator.measure(jnp.asarray(x)), 2 * means, atol=1e-6)
    picture = operator.lift(operator.measure(jnp.asarray(x)))
    np.testing.assert_allclose(picture[:, ::2, ::2], means, atol=1e-6)


def test_a_matrix_is_known_through_its_singular_vectors():
    operator, _ = CASES["linear"]
    x = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    known = np.asarray(operator.lift(operator.measure(jnp.asarray(x)))).reshape(2, -1)
    np.testing.assert_allclose(known @ MATRIX.T, x.reshape(2, -1) @ MATRIX.T, atol=1e-4)
    np.testing.assert_allclose(
        operators.linear(MATRIX.reshape(5, *SHAPE), SHAPE).rows.shape, (4, 72)
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: operators.inpaint(np.ones((5, 6)), SHAPE), "--mask: is [5, 6]"),
        (lambda: operators.inpaint(np.ones((4, 6)), SHAPE), "every pixel is known"),
        (lambda: operators.inpaint(np.zeros((4, 6)), SHAPE), "no pixel is known"),
        (lambda: operators.colorize((4, 6, 1)), "colorize needs"),
        (lambda: operators.super_resolve(4, SHAPE), "--factor: 4"),
        (lambda: operators.super_resolve(1, SHAPE), "--factor: 1"),
        (lambda: operators.linear(np.ones((2, 71)), SHAPE), "--operator: is float64 [2, 71]"),
        (lambda: operators.linear(np.zeros((2, 72)), SHAPE), "singular values are zero"),
        (lambda: operators.linear(np.full((2, 72), np.nan), SHAPE), "NaN"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert words in str(caught.value)
