import json
import math
import sys
import types

import pytest

from genjax.checkpoint import Workdir
from genjax.training.settings import LogSettings
from genjax.training.writers import JsonLines, Screen, TensorBoard, open_writers, read_metrics


def line(step, **metrics):
    return {"step": step, "images": 10 * step, "seconds": 1.0, **metrics}


@pytest.mark.parametrize("append", [True, False])
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_lines_beyond_the_resumed_step_are_removed(tmp_path, scheme, append):
    workdir = Workdir(f"memory://{tmp_path.name}/{append}" if scheme else str(tmp_path))
    writer = JsonLines(workdir, 0, append=append)
    for step in (1, 2, 3, 4):
        writer.write(line(step, loss=float(step)))
        if step % 2 == 0:
            writer.flush()
    writer.close()
    assert workdir.exists("metrics.jsonl") is append
    assert workdir.listing("metrics") == ([] if append else ["00001.jsonl", "00002.jsonl"])
    again = JsonLines(workdir, 3, append=append)
    again.write(line(4, loss=40.0))
    again.write(line(5, loss=50.0))
    again.close()
    assert [(x["step"], x["loss"]) for x in read_metrics(workdir)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
        (5, 50.0),
    ]
    fresh = JsonLines(workdir, 0, append=append)
    fresh.close()
    assert read_metrics(workdir) == []


def test_lines_are_valid_json(tmp_path):
    writer = JsonLines(Workdir(str(tmp_path)), 0)
    writer.write(line(1, loss=math.nan, rate=math.inf, ok=2.0))
    text = (tmp_path / "metrics.jsonl").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["loss"] is None and found["rate"] is None and found["ok"] == 2.0


def test_tensorboard_events(tmp_path):
    events = TensorBoard(Workdir(str(tmp_path)), 0)
    events.write(line(3, loss=0.25))
    events.close()
    content = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b"loss" in content and b"images" in content


def test_plain_lines_without_a_terminal(capsys):
    screen = Screen(100, 0)
    screen.write(line(2, loss=0.123456, eta_seconds=3661.0))
    screen.close()
    assert capsys.readouterr().err == "step 2  images 20  loss 0.1235  1:01:01 left\n"


def test_only_process_0_writes(tmp_path):
    arguments = {"step": 0, "images": 0, "total_images": 1, "config": {}}
    writers = open_writers(Workdir(str(tmp_path)), LogSettings(), process=1, **arguments)
    writers.write(line(1))
    writers.say("nothing")
    writers.close()
    assert list(tmp_path.iterdir()) == []


def test_wandb_where_it_is_installed(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, metrics, step):
            calls.append((metrics, step))

        def finish(self):
            calls.append("finish")

    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace()  # pyright: ignore[reportAttributeAccessIssue]
    fake.init = lambda **k: calls.append(k) or Run()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = LogSettings(wandb="project", tensorboard=False)
    arguments = {"step": 0, "images": 0, "total_images": 1, "config": {"a": 1}}
    writers = open_writers(Workdir(str(tmp_path)), settings, process=0, **arguments)
    writers.write(line(7, loss=1.0))
    writers.close()
    assert calls[0]["project"] == "project" and calls[0]["config"] == {"a": 1}
    assert calls[0]["resume"] == "allow"
    assert calls[1] == ({"images": 70, "seconds": 1.0, "loss": 1.0}, 7) and calls[2] == "finish"
