"""Time-Shift and scaled noise as a sampler's setting: batches, devices, measures, latents."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.parallel import MeshSpec
from genjax.solvers.time_shift import histogram
from genjax.tasks.generate import Generator, labels_for, on_host
from tests.tasks.tiny import parameters, task

TABLE = {
    "process": {"name": "table", "betas": "linear", "n": 1000},
    "precond": {"name": "eps"},
    "times": {"name": "index"},
    "objective": {"name": "denoising"},
}
NUM = 5


def shifted(solver="ddim", guidance=1.0, **fields):
    return task(
        **TABLE,
        sampler={
            "solver": {"name": solver},
            "grid": {"name": "leading"},
            "steps": 6,
            "guidance": {"name": "cfg", "weight": guidance},
            "shift": {"name": "time_shift", "window": 60, "cutoff": 100, "widest": 80, **fields},
        },
    )


def drawn(generator, made, params, rows=None):
    labels = labels_for(NUM, None, made.num_classes)
    parts = generator(params, {}, num=NUM, labels=labels, seed=1, rows=rows)
    return np.concatenate([images for images, _ in parts])


@pytest.mark.parametrize("solver", ["ddim", "pndm", "dpm_solver_multistep"])
def test_samples_do_not_depend_on_batch_or_devices(solver):
    made = shifted(solver, guidance=2.0)
    params = parameters(made)["model"]
    one = Generator(made, batch=NUM)
    whole = drawn(one, made, params)
    times = one.measures["shifted_times"]
    assert times.shape == (NUM, 6) and np.isfinite(times).all()
    moved = sum(
        step["shifts"].get(0, 0) < 1 for step in histogram(made.process, made.rows(), times)
    )
    assert moved == 5  # all steps but the first
    many = Generator(made, batch=8, mesh=MeshSpec().build())
    split = drawn(many, made, params)
    assert np.abs(split.astype(int) - whole.astype(int)).max() <= 1
    np.testing.assert_array_equal(many.measures["shifted_times"], times)


def test_window_and_cutoff_of_a_task_do_not_compile_again():
    made = shifted()
    params = parameters(made)["model"]
    generator = Generator(made, batch=NUM)
    first = drawn(generator, made, params)
    other = drawn(generator, made, params, rows=shifted(window=20, cutoff=300).rows())
    none = drawn(generator, made, params, rows=shifted(window=0).rows())
    assert generator.compilations == 1
    assert (first != other).any() and (first != none).any()
    base = made.with_sampler(shift=task().sampler.shift)
    np.testing.assert_array_equal(drawn(Generator(base, batch=NUM), base, params), none)


def test_rows_go_to_the_device_as_they_are():
    rows = on_host(shifted().rows())["shift"]
    assert rows["index"].dtype == np.int32 and rows["variance"].dtype == np.float32
    assert np.isinf(rows["variance"]).any()  # places outside the window


def test_latents_need_their_own_variance(tmp_path):
    codec = {"name": "kl_vae", "path": str(tmp_path / "none"), "model": {"variant": "f8"}}
    fields = {**TABLE, "codec": codec, "image": (64, 64, 3), "levels": 256}
    shift = {"name": "time_shift", "window": 10, "cutoff": 0}
    sampler = {"solver": {"name": "ddim"}, "grid": {"name": "leading"}, "steps": 4}
    with pytest.raises(UserError, match="variance_target: latents"):
        task(**fields, sampler={**sampler, "shift": shift}).rows()
    shift |= {"variance_target": "marginal", "v0": 0.9}
    with pytest.warns(UserWarning, match="expect nothing"):
        assert "shift" in task(**fields, sampler={**sampler, "shift": shift}).rows()
