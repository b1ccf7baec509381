"""Streamed statistics against numpy in float64, on one and eight devices, and their files."""

import jax
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import files, statistics
from genjax.evaluation.extractors import spread_over_devices, whole_batch
from genjax.evaluation.statistics import Accumulator, Statistics, of_features


def features(n=3000, d=16, mean=4.0, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + mean).astype(np.float32)


def relative(a, b) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def streamed(x, batch, shift=None, devices=None) -> Statistics:
    accumulator = Accumulator(shift)
    rows = whole_batch(batch)
    for i in range(0, len(x), batch):
        block = x[i : i + batch]
        mask = np.arange(rows) < len(block)
        block = np.pad(block, ((0, rows - len(block)), (0, 0)), constant_values=1e6)
        accumulator.add(placed(block, devices), mask)
    return accumulator.result()


def placed(block, devices=None):
    return spread_over_devices(lambda i: block[i], np.arange(len(block)), block.shape[1:], devices)


@pytest.mark.parametrize("batch", [7, 256, 3000])
def test_streaming_equals_the_whole(batch):
    x = features()
    exact = np.cov(x.astype(np.float64).T)
    got = streamed(x, batch)
    assert got.n == 3000
    assert relative(got.sigma, exact) < 1e-6
    assert relative(got.mu, x.mean(0, dtype=np.float64)) < 1e-7


def test_the_shift_keeps_digits_that_raw_moments_lose():
    x = features(mean=300.0)
    exact = np.cov(x.astype(np.float64).T)
    assert relative(streamed(x, 256).sigma, exact) < 1e-6
    assert relative(streamed(x, 256, shift=np.zeros(16)).sigma, exact) > 1e-5


@pytest.mark.parametrize("count", [2, 8])
def test_one_and_more_devices_agree(count):
    assert jax.device_count() == 8
    x = features()
    one = streamed(x, 256, devices=jax.devices()[:1])
    more = streamed(x, 256, devices=jax.devices()[:count])
    assert placed(x[:256], jax.devices()[:count]).sharding.num_devices == count
    assert relative(more.sigma, one.sigma) < 1e-6
    assert relative(more.mu, one.mu) < 1e-7


@pytest.mark.parametrize("n", [12, 700])
def test_sums_go_on_bit_for_bit(n):
    x = features(n=n)
    first = Accumulator()
    first.add(x[:5])
    again = Accumulator(sums=first.sums())
    for accumulator in (first, again):
        accumulator.add(x[5:])
    a, b = first.result(), again.result()
    assert np.array_equal(a.sigma, b.sigma) and np.array_equal(a.mu, b.mu) and a.n == b.n == n


def test_order_does_not_matter():
    x = features()
    shuffled = x[np.random.default_rng(1).permutation(len(x))]
    assert relative(streamed(shuffled, 256).sigma, streamed(x, 256).sigma) < 1e-6


def test_few_rows_are_kept_and_exact():
    x = features(n=10)
    got = streamed(x, 4)
    assert np.array_equal(got.features, x)
    np.testing.assert_allclose(got.sigma, np.cov(x.astype(np.float64).T), rtol=1e-12, atol=1e-12)
    assert streamed(features(n=17), 4).features is None  # 17 rows of 16 dimensions


def test_what_is_not_finite_is_named():
    x = features(n=100)
    x[70, 3] = np.nan
    with pytest.raises(UserError, match="samples 64 to 95 are not finite"):
        streamed(x, 32)
    with pytest.raises(UserError, match="at least two images"):
        of_features(x[:1])


@pytest.mark.parametrize("n", [10, 100])
def test_files_give_back_what_they_were_given(tmp_path, n):
    made = of_features(features(n=n), {"extractor": "classifier", "extractor_hash": "ab"})
    statistics.save(tmp_path / "s.npz", made)
    back = statistics.load(tmp_path / "s.npz")
    assert np.array_equal(back.mu, made.mu) and np.array_equal(back.sigma, made.sigma)
    assert back.n == n and back.protocol == made.protocol
    assert (back.features is None) == (n > 16)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_statistics_of_other_tools_are_read(tmp_path):
    np.savez(tmp_path / "peer.npz", mu=np.zeros(3), sigma=np.eye(3))
    got = statistics.load(tmp_path / "peer.npz")
    assert got.n is None and got.protocol == {} and got.dim == 3


def test_files_in_the_layout_of_adm(tmp_path):
    made, spatial = of_features(features(n=100)), of_features(features(n=100, d=5, seed=1))
    images = np.zeros((3, 4, 4, 3), np.uint8)
    statistics.save(tmp_path / "adm.npz", made, spatial, images)
    assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0"} <= files.keys(tmp_path / "adm.npz")
    assert np.array_equal(statistics.load(tmp_path / "adm.npz").sigma, made.sigma)
    assert np.array_equal(statistics.load(tmp_path / "adm.npz", "_s").sigma, spatial.sigma)
    np.savez(tmp_path / "half.npz", mu=made.mu, sigma=made.sigma, mu_s=spatial.mu)
    with pytest.raises(UserError, match="keys mu_s and sigma_s"):
        statistics.load(tmp_path / "half.npz", "_s")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"mean": np.zeros(3)}, "keys mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "do not fit"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "cannot be read"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=message):
        statistics.load(tmp_path / "s.npz")


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        statistics.load(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="cannot be read"):
        statistics.load(tmp_path / "cut.npz")


def test_the_cache_depends_on_every_part(tmp_path):
    file = statistics.cache_file(tmp_path, "data", "protocol", "hash")
    assert file == statistics.cache_file(tmp_path, "data", "protocol", "hash")
    others = [
        ("data2", "protocol", "hash"),
        ("data", "protocol2", "hash"),
        ("data", "protocol", "h"),
    ]
    assert len({file, *(statistics.cache_file(tmp_path, *o) for o in others)}) == 4
