"""Work that is interrupted goes on where it stopped: nothing twice, nothing left out."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import METRICS, Reference, Settings, Store, evaluate, store
from genjax.evaluation.files import read_npz
from genjax.evaluation.images import of_arrays

PICTURES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)


def fill(work, stop, step=8):
    while work.done < stop:
        part = PICTURES[work.done : min(work.done + step, len(PICTURES))]
        work.add(len(part), {"arr_0": part, "arr_1": np.arange(work.done, work.done + len(part))})


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_of_a_work_that_was_cut_off(tmp_path, monkeypatch, seconds, in_memory):
    monkeypatch.setattr(store, "IN_MEMORY", 2**30 if in_memory else 0)
    fill(Store(tmp_path, seconds).work("samples", seed=1), 24)  # and then it is killed
    again = Store(tmp_path, seconds).work("samples", seed=1)
    assert again.done == (24 if seconds == 0 else 0)
    (tmp_path / "stray").mkdir()
    fill(again, 50)
    again.finish()
    images = Store(tmp_path).work("samples", seed=1).image_set("drawn", "step 3")
    assert (images.name, images.size, images.made) == ("drawn", 50, "step 3")
    assert np.array_equal(images.read(np.arange(50)), PICTURES)
    assert np.array_equal(images.read(np.array([40, 3, 17])), PICTURES[[40, 3, 17]])
    assert np.array_equal(images.labels, np.arange(50))
    assert Store(tmp_path).work("samples", seed=2).done == 0


def test_a_part_that_the_state_does_not_know_counts_nothing(tmp_path):
    work = Store(tmp_path, 0.0).work("samples")
    fill(work, 16)
    state = (work.folder / "state.npz").read_bytes()
    fill(work, 24)  # killed between the part and the state:
    (work.folder / "state.npz").write_bytes(state)
    again = Store(tmp_path, 0.0).work("samples")
    assert again.done == 16
    fill(again, 50, step=5)
    again.finish()
    assert np.array_equal(again.rows("arr_0")["arr_0"], PICTURES)


def test_without_a_folder_all_stays_in_memory():
    work = Store().work("samples")
    fill(work, 50)
    work.finish()
    assert np.array_equal(work.image_set("x", "").read(np.arange(50)), PICTURES)
    with pytest.raises(UserError, match="x: holds no images"):
        Store().work("samples").image_set("x", "")


def test_a_damaged_state_is_named(tmp_path):
    work = Store(tmp_path, 0.0).work("samples")
    fill(work, 8)
    (work.folder / "state.npz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"state\.npz: cannot be read"):
        Store(tmp_path).work("samples")


class Network:
    """Features of pixels; it is killed at the call `dies`."""

    name, hash, dim, protocol = "pixels", "0123456789abcdef", 16, "x8/255"

    def __init__(self, dies=10**9):
        self.dies, self.images = dies, 0

    def __call__(self, images):
        self.dies -= 1
        if self.dies < 0:
            raise KeyboardInterrupt
        self.images += images.shape[0]
        x = jnp.asarray(images, jnp.float32).reshape(images.shape[0], -1) / 255
        return {"features": x, "logits": x[:, :4] * 9}


@pytest.mark.parametrize("dies", [1, 3, 6, 7])
def test_an_evaluation_that_was_cut_off_gives_the_same_report(tmp_path, dies):
    rng = np.random.default_rng(1)
    samples = of_arrays("drawn", rng.integers(0, 200, (60, 4, 4, 1), np.uint8))
    real = Reference("real", of_arrays("real", rng.integers(0, 256, (60, 4, 4, 1), np.uint8)))
    metrics = {n: METRICS.build({"name": n}) for n in ("fid", "kid", "is", "precision")}

    def run(folder, network):
        settings = Settings(batch=16, cache=folder / "cache", store=Store(folder / "store", 0.0))
        return evaluate(samples, real, metrics, {"": network}, settings=settings)

    whole = Network()
    report = run(tmp_path / "whole", whole)
    killed, rest = Network(dies), Network()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", killed)
    assert run(tmp_path / "cut", rest) == report
    assert killed.images + rest.images == whole.images == 2 * 64  # every image once
    idle = Network(0)
    assert run(tmp_path / "cut", idle) == report  # nothing is left to do


def test_statistics_of_the_samples_are_written(tmp_path):
    samples = of_arrays("drawn", PICTURES)
    real = Reference("real", of_arrays("real", PICTURES[::2]))
    settings = Settings(batch=16, save=tmp_path / "s.npz")
    metrics = {"fid": METRICS.build({"name": "fid"})}
    evaluate(samples, real, metrics, {"": Network()}, settings=settings)
    found = read_npz(tmp_path / "s.npz")
    x = PICTURES.reshape(50, 16) / 255
    np.testing.assert_allclose(found["mu"], x.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["sigma"], np.cov(x.T), atol=1e-6)
