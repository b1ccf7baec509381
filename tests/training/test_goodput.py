"""Goodput in closed form, on a clock that only moves where the test says so."""

import time

import pytest

from genjax.checkpoint import Checkpoints
from genjax.training import loop, throughput
from genjax.training.hooks import Hook
from genjax.training.loop import train
from genjax.training.settings import LogSettings
from genjax.training.writers import read_metrics
from tests.training import loop_toys as toys

STEP, SAVE, HOOK, OPEN, DOWN = 2.0, 5.0, 1.0, 30.0, 100.0


class Clock:
    now = 1e9

    def time(self):
        return self.now

    monotonic = time

    def spend(self, seconds):
        self.now += seconds


class Killed(Exception):
    pass


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (throughput, loop):
        monkeypatch.setattr(module, "time", clock)
    save = Checkpoints.save

    def slow(self, *args, **kwargs):
        clock.spend(SAVE)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", slow)
    return clock


def run_of(path, clock, steps, kill=None):
    """Returns a run that saves after steps 5 and 10; every second step is logged, every step has
    a hook, and opening the data takes long."""

    def hook(moment):
        clock.spend(HOOK)
        if moment.step == kill:
            raise Killed

    def open_streams(read):
        clock.spend(OPEN)

        def rows(stream):
            for batch in stream:
                clock.spend(STEP)
                yield batch

        return {s: rows(toys.Stream(n, toys.BATCH)) for s, n in read.items()}

    log = LogSettings(every_images=toys.BATCH, tensorboard=False)
    hooks = (Hook("hook", toys.BATCH, hook),)
    return toys.run_of(path, steps=steps, log=log, hooks=hooks, open_streams=open_streams)


def goodput(path):
    return {x["step"]: x["goodput"] for x in read_metrics(str(path)) if "goodput" in x}


def test_lost_steps_saves_hooks_and_restarts_do_not_count(clock, tmp_path):
    with pytest.raises(Killed):
        train(run_of(tmp_path, clock, 10, kill=8))
    found = goodput(tmp_path)
    assert found[5] == pytest.approx(5 * STEP / (OPEN + 5 * STEP + 4 * HOOK))
    assert found[8] == pytest.approx(8 * STEP / (OPEN + 8 * STEP + 7 * HOOK + SAVE))
    clock.spend(DOWN)
    train(run_of(tmp_path, clock, 10))
    # Steps 6, 7 and 8 were trained twice: their first time is lost.
    lost = OPEN + 8 * (STEP + HOOK) + SAVE - 5 * STEP + DOWN + OPEN
    wall = lost + 10 * STEP + 4 * HOOK
    assert goodput(tmp_path)[10] == pytest.approx(10 * STEP / wall)
    assert list(goodput(tmp_path)) == list(range(1, 11))


def test_a_rest_between_a_planned_end_and_more_images_is_nobodys_fault(clock, tmp_path):
    train(run_of(tmp_path, clock, 5))
    clock.spend(1e6)
    train(run_of(tmp_path, clock, 6))
    wall = 2 * OPEN + 6 * STEP + 5 * HOOK + SAVE
    assert goodput(tmp_path)[6] == pytest.approx(6 * STEP / wall)
    events = throughput.Workdir(str(tmp_path)).read_json("attempts.json")
    assert [(e["event"], e["step"]) for e in events] == [
        ("began", 0),
        ("ended", 5),
        ("began", 5),
        ("ended", 6),
    ]


def test_a_real_clock(tmp_path):
    begin = time.time()
    train(toys.run_of(tmp_path, steps=4))
    assert 0 < goodput(tmp_path)[4] < 1
    (began, ended) = throughput.Workdir(str(tmp_path)).read_json("attempts.json")
    assert begin <= began["time"] <= ended["time"] <= time.time()
