"""Whole toy runs: resumed equals uninterrupted, bit for bit, and nothing is lost on the way."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from genjax.checkpoint import Checkpoints
from genjax.core.errors import Diverged, UserError
from genjax.training.hooks import Hook
from genjax.training.loop import train
from genjax.training.settings import CheckpointSettings, LogSettings, TrainSettings
from genjax.training.writers import read_metrics
from tests.training import loop_toys as toys


class Killed(Exception):
    """Stands for kill -9: nothing that the loop could react to."""


def kill_at(step):
    def run(moment):
        if moment.step == step:
            raise Killed

    return Hook("kill", toys.BATCH, run)


def lines(path):
    timed = ("seconds", "images_per_second", "model_tflops", "eta_seconds", "goodput")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(str(path))]


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """The same few steps are compiled again and again here; a cache makes that bearable."""
    before = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The final state and the workdir of ten uninterrupted steps."""
    path = tmp_path_factory.mktemp("whole")
    return jax.device_get(train(toys.run_of(path))), path


def test_a_killed_run_resumes_bit_for_bit(whole, tmp_path):
    streams = []

    def watched(run):
        def open_streams(read):
            opened = run.open_streams(read)
            streams.append((read, opened["main"]))
            return opened

        return dataclasses.replace(run, open_streams=open_streams)

    with pytest.raises(Killed):
        train(watched(toys.run_of(tmp_path, hooks=(kill_at(8),))))
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 9, "lo')  # cut short, as by kill -9
    state = train(watched(toys.run_of(tmp_path)))
    assert toys.same(state, whole[0])
    assert lines(tmp_path) == lines(whole[1])
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8, 10]
    assert [read["main"] for read, _ in streams] == [0, 5 * toys.BATCH]
    assert all(stream.closed for _, stream in streams)
    seconds = [line["seconds"] for line in read_metrics(str(tmp_path))]
    assert seconds == sorted(seconds)


def test_what_a_workdir_holds(whole):
    state, path = whole
    record = json.loads((path / "checkpoints" / "10" / "meta" / "metadata").read_text())
    assert (record["step"], record["images"]) == (10, 160)
    assert record["config"] == {"toy": 1} and record["batch"] == {"main": toys.BATCH}
    assert set(record["versions"]) == {"jax", "flax", "optax"}
    assert int(state.opt["model"][0][1].count) == 10 and int(state.step) == 10
    assert float(state.mutable["a"]["seen"]) == 160
    last = lines(path)[-1]
    assert {"loss", "grad_norm", "learning_rate", "images"} <= set(last)
    params, _ = Checkpoints(str(path)).restore_params("half")
    assert toys.same(params, state.ema["half"])
    # a finished run has nothing left to do
    before = (path / "metrics.jsonl").read_text()
    assert toys.same(train(toys.run_of(path)), state)
    assert (path / "metrics.jsonl").read_text() == before


def test_sigterm_saves_the_step_and_exits_143(whole, tmp_path):
    previous = signal.getsignal(signal.SIGTERM)

    def send(moment):
        if moment.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        train(toys.run_of(tmp_path, hooks=(Hook("send", toys.BATCH, send),)))
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is previous
    assert Checkpoints(str(tmp_path)).steps() == [4]
    assert toys.same(train(toys.run_of(tmp_path)), whole[0])


def test_two_players_resume_with_their_own_counts(tmp_path):
    task = toys.Gan()
    expected = jax.device_get(train(toys.run_of(tmp_path / "whole", task, steps=11)))
    counts = [int(expected.opt[p][0][1].count) for p in ("D", "G")]
    assert counts == [11, 3]
    with pytest.raises(Killed):
        hooks = (kill_at(8),)
        train(toys.run_of(tmp_path / "cut", task, steps=11, save_steps=7, hooks=hooks))
    resumed = train(toys.run_of(tmp_path / "cut", task, steps=11, save_steps=7))
    assert toys.same(resumed, expected)


def test_continues_on_other_meshes(whole, tmp_path):
    for steps, grid in (
        (4, toys.mesh(8, data=2, fsdp=2, tensor=2)),
        (8, toys.mesh(2, data=1, fsdp=2)),
        (10, toys.mesh(1)),
    ):
        state = train(toys.run_of(tmp_path, steps=steps, mesh=grid))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=1e-6)


def test_a_nan_stops_the_run_and_spares_the_checkpoint(tmp_path):
    run = toys.run_of(tmp_path, poison=7 * toys.BATCH)
    with pytest.raises(Diverged, match=r'step 8 \(image 128\), player model: .* "batch/main/x"'):
        train(run)
    assert Checkpoints(str(tmp_path)).steps() == [5]
    params, _ = Checkpoints(str(tmp_path)).restore_params()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_a_workdir_in_an_object_store(whole, tmp_path):
    place = f"memory://{tmp_path.name}/run"
    with pytest.raises(Killed):
        train(toys.run_of(place, hooks=(kill_at(7),)))
    log = LogSettings(every_images=2 * toys.BATCH, tensorboard=True)
    keep = CheckpointSettings(every_images=80, ema_every_images=80)
    run = toys.run_of(place, log=log, checkpoint=keep)
    assert toys.same(train(run), whole[0])
    assert lines(place) == lines(whole[1])
    assert [n for n in run.workdir.listing("tensorboard") if "tfevents" in n]
    assert Checkpoints(place).snapshots() == {10: 160}


def test_hooks_metrics_and_the_best_checkpoint(tmp_path):
    moments = []

    def measure(moment):
        moments.append((moment.step, sorted(moment.weights())))
        return {"quality": {4: 1.0, 8: 3.0, 10: 2.0}[moment.step]}

    keep = CheckpointSettings(
        every_images=32, keep_last=1, keep_best=1, best_metric="quality", best_mode="max"
    )
    hooks = (Hook("measure", 4 * toys.BATCH, measure), Hook("never", 0, measure))
    train(toys.run_of(tmp_path, checkpoint=keep, hooks=hooks))
    names = ["fixed", "half", "raw"]
    assert moments == [(4, names), (8, names), (10, names)]
    found = [(x["step"], x["quality"]) for x in lines(tmp_path) if "quality" in x]
    assert found == [(4, 1.0), (8, 3.0), (10, 2.0)]
    assert Checkpoints(str(tmp_path)).steps() == [8, 10]


def test_warm_start_happens_once(tmp_path):
    calls = []

    def warm(params):
        calls.append(1)
        return {"b": jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), params["b"])}

    state = train(toys.run_of(tmp_path, steps=0, warm_start=warm))
    assert float(state.params["b"]["up"]["kernel"][0, 0]) == 0.5
    train(toys.run_of(tmp_path, steps=1, warm_start=warm))
    assert len(calls) == 2, "nothing was saved after no steps, so the run began again"
    train(toys.run_of(tmp_path, steps=1, warm_start=warm))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch": {"main": 12}, "devices": 8},
            r"config\.data\.main\.batch=12 is not divisible by",
        ),
        ({"train": TrainSettings(images=160, accumulate=3)}, "choose a multiple of 3"),
        ({"batch": {}}, r"config\.data\.main\.batch: the task reads"),
        ({"log": LogSettings(wandb="p")}, "wandb is not installed"),
        ({"train": TrainSettings(images=1, ema_networks=("z",))}, "no network 'z'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(toys.run_of(tmp_path, **changes))


def test_another_batch_size_is_refused(whole):
    run = toys.run_of(whole[1], batch={"main": 32}, train=TrainSettings(images=640))
    with pytest.raises(UserError, match="resume with the batch size"):
        train(run)


def test_the_step_that_is_checked_is_the_one_that_trains(tmp_path):
    """Tracing a large network takes long: the check before the first step must not be a second."""
    traces = []

    class Counting(toys.Pair):
        def loss(self, *args):
            traces.append(1)
            return super().loss(*args)

    train(toys.run_of(tmp_path, task=Counting(), steps=2))
    assert len(traces) == 1
