"""Blocked nearest neighbours against the full table, and the copying check made of them."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation.images import of_arrays
from genjax.evaluation.metrics import Evidence, Nearest, Spread
from genjax.evaluation.neighbours import nearest


def some(n, shape=(8, 8, 1), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def table(a, b) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float64) / 255 for x in (a, b))
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


@pytest.mark.parametrize("rows", [13, 64, 1000])
def test_blocks_equal_the_full_table(rows):
    a, b = some(50), some(90, seed=1)
    distance, index = nearest(a, of_arrays("b", b), rows=rows)
    full = table(a, b)
    assert np.array_equal(index, full.argmin(1))
    np.testing.assert_allclose(distance, full.min(1), rtol=1e-12)


@pytest.mark.parametrize("rows", [13, 1000])
def test_an_image_is_not_its_own_neighbour(rows):
    b = some(90)
    own = np.array([5, 40, 89])
    distance, index = nearest(b[own], of_arrays("b", b), own, rows=rows)
    full = table(b[own], b)
    full[np.arange(3), own] = np.inf
    assert np.array_equal(index, full.argmin(1)) and (distance > 0).all()


def test_a_copy_has_the_distance_zero_even_in_large_images():
    b = some(20, (64, 64, 3))
    distance, index = nearest(b[[3, 17]], of_arrays("b", b), rows=8)
    assert np.array_equal(index, [3, 17]) and np.array_equal(distance, [0, 0])


def evidence(images, name="set") -> Evidence:
    return Evidence(name, len(images), of_arrays(name, images))


def test_copies_give_zero_and_other_data_of_the_same_law_one():
    real = some(300, (4, 4, 1))
    metric = Nearest()
    copies = metric(evidence(real[:100]), evidence(real), None, 0)
    assert copies.value == 0 and copies.details["copies"] == 1.0
    fresh = metric(evidence(some(300, (4, 4, 1), seed=9)), evidence(real), None, 0)
    assert fresh.value == pytest.approx(1.0, abs=0.05)
    half_way = real[:100] // 2 + np.roll(real, 1, 0)[:100] // 2
    assert 0 < metric(evidence(half_way), evidence(real), None, 0).value < fresh.value


def test_at_most_so_many_images_look_for_neighbours():
    real = some(300, (4, 4, 1))
    value = Nearest(queries=20)(evidence(some(50, (4, 4, 1), 1)), evidence(real), None, 0)
    assert "of 20 samples" in value.protocol and "of 20 reference images" in value.protocol
    with pytest.raises(ValueError, match="at least 1"):
        Nearest(queries=0)


def test_spread_by_hand():
    real = np.zeros((4, 2, 2, 1), np.uint8)
    real[2:] = 200  # deviation 100 at every pixel
    flat = np.zeros((4, 2, 2, 1), np.uint8)
    flat[2:, 0] = 200  # the same at half of the pixels
    value = Spread()(evidence(flat), evidence(real), None, 0)
    assert value.value == pytest.approx(0.5)
    assert value.details["reference"] == pytest.approx(100 / 255)
    with pytest.raises(UserError, match="all its images are equal"):
        Spread()(evidence(real), evidence(real[:2]), None, 0)


def test_duplicated_references_are_said():
    real = np.repeat(some(3), 2, axis=0)
    with pytest.raises(UserError, match="exact copy"):
        Nearest()(evidence(some(3, seed=1)), evidence(real), None, 0)
