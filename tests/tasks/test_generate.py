"""Samples are functions of seed and index; labels, grey levels and evaluations as documented."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.parallel import MeshSpec
from genjax.solvers import GRIDS, GUIDANCES, SOLVERS
from genjax.tasks import Diffusion
from genjax.tasks.generate import Generator, labels_for
from tests.tasks.tiny import parameters, task

NUM = 19  # no batch size below divides it


@pytest.fixture(scope="module")
def drawn():
    """A task whose every step draws noise, its parameters, and its samples in one batch."""
    made = task(sampler=sampler(solver={"name": "sit_sde"}, guidance={"name": "cfg", "weight": 2}))
    params = parameters(made)
    return made, params, images(made, params, batch=NUM)


def sampler(**fields):
    return {"grid": {"name": "uniform", "last": 0.04}, "steps": 5, **fields}


@functools.cache
def compiled(made, batch, mesh=None):
    """One generator a task, batch and mesh: tests share what they compile."""
    return Generator(made, batch=batch, mesh=mesh)


def images(made, params, batch, mesh=None, first=0, seed=3):
    labels = labels_for(NUM, None, made.num_classes)
    generator = compiled(made, batch, mesh)
    parts = list(generator(params["model"], {}, num=NUM, labels=labels, seed=seed, first=first))
    given = [y for _, y in parts]
    if labels is not None:
        np.testing.assert_array_equal(np.concatenate(given), labels[first:])
    assert all(x.dtype == np.uint8 and len(x) <= batch for x, _ in parts)
    return np.concatenate([x for x, _ in parts])


def assert_same(found, want):
    """The contract: equal in 99.9 % of pixels, the rest within 1."""
    assert found.shape == want.shape
    difference = np.abs(found.astype(int) - want.astype(int))
    assert difference.max() <= 1 and np.mean(difference == 0) >= 0.999


def test_samples_differ_from_each_other_and_fill_the_range(drawn):
    _, _, want = drawn
    assert want.shape == (NUM, 8, 8, 1)
    assert len(np.unique(want.reshape(NUM, -1), axis=0)) == NUM
    assert np.std(want.astype(float)) > 20 and len(np.unique(want)) > 100


@pytest.mark.parametrize("batch", [3, 8, 16])
def test_image_i_is_the_same_in_every_batch_size(drawn, batch):
    made, params, want = drawn
    assert_same(images(made, params, batch), want)


def test_image_i_is_the_same_on_eight_devices(drawn):
    made, params, want = drawn
    mesh = MeshSpec().build()
    assert mesh.size == 8
    assert_same(images(made, params, 8, mesh), want)


def test_first_continues_where_another_process_stopped(drawn):
    made, params, want = drawn
    assert_same(images(made, params, 8, first=7), want[7:])


def test_seed_and_label_matter(drawn):
    made, params, want = drawn
    assert np.mean(images(made, params, NUM, seed=4) != want) > 0.5  # 0 and 255 are frequent
    generator = compiled(made, NUM)
    labels = np.full(NUM, 3, np.int32)
    ((other, _),) = generator(params["model"], {}, num=NUM, labels=labels, seed=3)
    same = np.arange(NUM) % 10 == 3
    assert_same(other[same], want[same])
    assert (other[~same] != want[~same]).reshape(np.sum(~same), -1).any(1).all()


def test_unconditional_models_take_no_labels():
    made = task(model={"num_classes": 0}, sampler=sampler())
    params = parameters(made)
    want = images(made, params, 8)
    assert_same(images(made, params, 8, first=3), want[3:])


def test_other_grid_values_of_the_same_length_do_not_recompile(drawn):
    made, params, _ = drawn
    generator = compiled(made, 4)
    call = {"num": 4, "labels": np.arange(4, dtype=np.int32), "seed": 0}

    def draw(g):
        return next(iter(g(params["model"], {}, **call)))[0]

    before = draw(generator)
    shifted = made.with_sampler(
        grid=GRIDS.build({"name": "uniform", "last": 0.1, "shift": 0.5}),
        guidance=GUIDANCES.build({"name": "cfg", "weight": 3.0}),
        solver=SOLVERS.build({"name": "sit_sde", "w": "constant"}),
    )
    fresh = Generator(shifted, batch=4)
    generator.rows = fresh.rows
    after = draw(generator)
    assert generator._draw._cache_size() == 1
    assert np.mean(after != before) > 0.5
    assert_same(after, draw(fresh))


def test_rows_reach_the_device_in_float32_and_hold_the_weights():
    rows = Generator(task(sampler=sampler(guidance={"name": "cfg", "weight": 2})), batch=1).rows
    assert {a.dtype for a in jax.tree.leaves(rows)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(rows["w"], np.full(5, 2, np.float32))


@dataclasses.dataclass(frozen=True)
class Counting(Diffusion):
    """Has a network that does little but note, when it runs, how many samples it sees."""

    calls: list = dataclasses.field(default_factory=list, compare=False)

    def _apply(self, params, x, time, cond, **kwargs):
        jax.debug.callback(lambda _: self.calls.append(len(x)), x[0])
        return 0.1 * x + cond["label"][:, None, None, None]


@pytest.mark.parametrize(
    ("solver", "guidance", "batch"),
    [
        ("euler", {"name": "none"}, 2),
        ("euler", {"name": "cfg", "weight": 1.0}, 2),
        ("euler", {"name": "cfg", "weight": 2.0}, 4),
        ("heun", {"name": "none"}, 2),
        ("heun", {"name": "cfg", "weight": 2.0}, 4),
        ("sit_sde", {"name": "none"}, 2),
    ],
)
def test_nfe_is_the_number_of_network_calls(solver, guidance, batch):
    made = task(
        Counting,
        sampler=sampler(solver={"name": solver}, guidance=guidance, steps=3),
    )
    labels = np.zeros(2, np.int32)
    list(Generator(made, batch=2)({}, {}, num=2, labels=labels, seed=0))
    jax.effects_barrier()
    assert made.calls == [batch] * made.nfe
    assert made.nfe == {"euler": 3, "heun": 5, "sit_sde": 3}[solver]


def test_labels_are_repeated_in_turn():
    assert labels_for(5, None, 3).tolist() == [0, 1, 2, 0, 1]
    assert labels_for(5, [2, 0], 3).tolist() == [2, 0, 2, 0, 2]
    assert labels_for(1, [2, 0], 3).tolist() == [2]
    assert labels_for(2, [3], 3).tolist() == [3, 3]  # the null label
    assert labels_for(2, [1], 3).dtype == np.int32
    assert labels_for(4, None, 0) is None and labels_for(4, [], 0) is None


@pytest.mark.parametrize(
    ("labels", "classes", "null", "words"),
    [
        ([0, 4], 3, True, r"labels: 4 is out of range; this model knows 0 to 2 \(3 stands"),
        ([-1], 3, True, "labels: -1 is out of range"),
        ([3], 3, False, "labels: 3 is out of range; this model knows 0 to 2$"),
        ([], 3, True, "the list is empty"),
        ([1], 0, True, "trained without classes"),
    ],
)
def test_wrong_labels_are_named(labels, classes, null, words):
    with pytest.raises(UserError, match=words):
        labels_for(4, labels, classes, null=null)


def test_uint8_is_the_rounding_of_the_reference():
    made = task()
    x = np.linspace(-1.2, 1.2, 4801, dtype=np.float32)
    want = np.clip(np.floor(127.5 * x.astype(np.float64) + 128), 0, 255)
    found = np.asarray(made.to_uint8(x)).astype(int)
    # float32 may decide otherwise only within rounding of a half.
    edge = np.abs((127.5 * x.astype(np.float64) + 128) % 1 - 0.5) > 0.499
    assert found.dtype == int and np.all((found == want) | edge)
    assert np.asarray(made.to_uint8(np.float32([-1, 0, 1, 9, -9]))).tolist() == [
        0, 128, 255, 255, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
def test_stored_levels_survive_the_round_trip(data_range):
    digits = task(data_range=data_range)
    stored = np.arange(17, dtype=np.uint8)
    x = np.asarray(digits.from_pixels(stored))
    np.testing.assert_allclose(x, np.linspace(*data_range, 17), atol=1e-6)
    assert x.dtype == np.float32
    grey = np.asarray(digits.to_uint8(x))
    np.testing.assert_array_equal(grey, np.floor(stored * (255 / 16) + 0.5))
    np.testing.assert_array_equal(np.round(grey * (16 / 255)), stored)
    full = task(data_range=data_range, levels=256)
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(full.to_uint8(full.from_pixels(every)), every)
