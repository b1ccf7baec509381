"""`genjax sweep`: designs become runs, runs become laws; resumed, emitted, reported and refused.

The runs are pretended but in the last test: their metrics follow a known law.
"""

import json
import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import jax
import pytest

from genjax.checkpoint import Workdir
from genjax.cli import sweep_jobs
from genjax.cli.config import read_file, resolve
from genjax.cli.main import main
from genjax.cli.schema import build_run
from genjax.cli.sweeping import Sweep, SweepRun
from genjax.core import keys
from genjax.core.registry import construct, expand
from genjax.core.tree import size as tree_size
from genjax.scaling.laws import Law
from tests.end_to_end.commands import ROOT, genjax

LAW = Law(E=0.1, A=4.0, alpha=0.5, B=30.0, beta=0.6)
CHANGES = {
    "task.sampler.guidance.name": "none",  # text that a flag must not turn into null
    "task.model.heads": 1,
    "data.main.batch": 8,
    "log.tensorboard": False,
    "log.every_images": 16,
    "heldout.num": 16,
    "heldout.batch": 8,
}
CONFIG = f"""
def get_config():
    return dict(
        base={str(ROOT / "configs" / "quickstart.py")!r},
        changes={{**{CHANGES!r}, "task": {{"model": {{"depth": 1}}}}}},
        shares={{"heldout.every_images": 1.0, "optimizer.model.schedule.warmup": 0.25}},
        sizes={{f"w{{w}}": {{"task.model.width": w}} for w in (8, 16, 32, 64)}},
        design=dict(name="isoflop", budgets=(3e9, 6e9, 12e9)),
        fit=dict(resamples=20, budgets=(1e11,)),
    )
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "sweep_config.py").write_text(CONFIG)
    return str(tmp_path / "sweep_config.py")


class Ended:
    """A process that has ended."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


def pretend(started, codes=None, law=LAW):
    """Returns a `sweep_jobs._start` whose runs have trained at once."""

    def start(job, log):
        started.append(job.name)
        code = (codes or {}).get(job.name, 0)
        Path(log).write_text(f"first line\ngenjax: error: config.x: wrong {job.name}\n")
        if not code:
            size, images = job.cell.size, job.cell.images
            loss = float(law(size.params, images))
            lines = [
                {"step": 1, "images": images // 2, "heldout/main/loss": 9.0},
                {"step": 2, "images": images, "seconds": 1.0, "loss": loss,
                 "heldout/main/loss": loss, "heldout/main/loss_error": 0.01 * loss},
            ]  # fmt: skip
            record = {"config": job.full, "parameters": 1}
            job.workdir.write("config.json", json.dumps(record).encode())
            job.workdir.write(
                "metrics.jsonl", "".join(f"{json.dumps(x)}\n" for x in lines).encode()
            )
        return Ended(code)

    return start


def opened(config, workdir, **overrides):
    full = resolve(read_file(config), overrides.items(), lambda c: expand(SweepRun, c, "config"))
    return Sweep.open(construct(SweepRun, full), Workdir(str(workdir)))


def test_runs_are_those_of_the_design(config, tmp_path):
    sweep = opened(config, tmp_path / "out")
    assert len(sweep.jobs) == 12 and sweep.metric == "heldout/main/loss"
    for job in sweep.jobs:
        width = int(job.cell.size.name[1:])
        full = job.full
        assert full["task"]["model"]["width"] == width and full["task"]["model"]["depth"] == 1
        assert full["task"]["sampler"]["guidance"]["name"] == "none"
        assert full["train"]["images"] == job.cell.images and not job.cell.images % 8
        assert full["heldout"]["every_images"] == job.cell.images
        warmup = full["optimizer"]["model"]["schedule"]["warmup"]
        assert warmup == int(0.25 * job.cell.images)
        # Blocks 4 d^2 + 8 d^2 + 6 d^2 with biases 4 d + 5 d + 6 d, the last modulation and layer.
        d = width
        assert job.cell.size.params == 18 * d * d + 15 * d + 2 * d * d + 2 * d + 4 * d + 4
        assert abs(job.cell.flops / job.cell.budget - 1) < 4.1 / job.cell.images
        command = job.command
        assert command[3:5] == ["train", "--config"] and command[-1].startswith("--config.")
    assert len({job.workdir.path for job in sweep.jobs}) == 12


def test_transfer_scales_the_learning_rates_of_all_other_sizes(config, tmp_path):
    jobs = {j.cell.size.name: j for j in opened(
        config, tmp_path, transfer="w16",
        **{f"sizes.w{w}.task.model.heads": str(w // 8) for w in (8, 16, 32, 64)},
    ).jobs}  # fmt: skip
    found = {
        name: dict(job.full["optimizer"]["model"]["multipliers"]) for name, job in jobs.items()
    }
    assert found["w16"] == {".*": 1.0} and set(found["w8"].values()) == {2.0, 1.0}
    kernel = r"(^|/)model/blocks/attention/qkv/kernel$"
    assert {name: rules.get(kernel) for name, rules in found.items() if name != "w16"} == {
        "w8": 2.0, "w32": 0.5, "w64": 0.25,
    }  # fmt: skip
    run = build_run(jobs["w64"].full)
    params = jax.eval_shape(lambda: run.task.init(keys.key(0, "init")))["params"]
    run.optimizer["model"].build(params, 8, 100)  # every pattern decides something


def test_n_counts_what_it_says(config, tmp_path):
    job = opened(config, tmp_path).jobs[0]
    task = build_run(job.full).task
    params = jax.eval_shape(lambda: task.init(keys.key(0, "init")))["params"]["model"]
    out = sum(tree_size(params[name]) for name in ("patch_embed", "time", "label"))
    assert job.cell.size.params == tree_size(params) - out
    everything = opened(config, tmp_path, embeddings="('nothing',)").jobs[0]
    assert everything.cell.size.params == tree_size(params)


def test_a_sweep_is_run_fitted_resumed_and_reported(config, tmp_path, monkeypatch, capsys):
    out, started = tmp_path / "out", []
    given = ["sweep", "--config", config, "--workdir", str(out)]
    codes = {"w16-3e9": 3, "w32-6e9": 1}
    monkeypatch.setattr(sweep_jobs, "_start", pretend(started, codes))
    assert main([*given, "--dry-run"]) == 0 and not out.exists() and not started
    assert main([*given, "--fit"]) == 0 and not started
    assert "nothing to fit" in capsys.readouterr().out
    assert main([*given, "--jobs", "3"]) == 1  # one run may be tried again
    text = capsys.readouterr()
    assert "w16-3e9: diverged" in text.err and "w32-6e9: ended with exit code 1" in text.err
    assert len(started) == 12 and "w16-3e9" in text.out and "diverged" in text.out

    started.clear()
    monkeypatch.setattr(sweep_jobs, "_start", pretend(started))
    assert main([*given, "--emit", str(tmp_path / "left.sh")]) == 0 and not started
    assert (tmp_path / "left.sh").read_text().count("genjax train") == 1
    assert main(given) == 0 and started == ["w32-6e9"]  # done ones are skipped, diverged ones too
    found = json.loads((out / "sweep.json").read_text())
    assert (out / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert len(found["points"]) == 11 and {p["budget"] for p in found["points"]} == {3e9, 6e9, 12e9}
    for key in ("alpha", "beta"):
        low, high = found["law"]["intervals"][key]
        truth = getattr(LAW, key)
        assert found["law"][key] == pytest.approx(truth, rel=1e-3)
        assert low - 1e-9 <= found["law"][key] <= high + 1e-9  # exact points: of no width
    assert found["law"]["residual"] < 1e-6 and found["law"]["measurement"] == pytest.approx(0.01)
    optimum = next(row for row in found["optima"] if row["flops"] == 1e11)["law"]
    k, g = found["cost"]["k"], found["cost"]["g"]
    spent = k * optimum["N"]["value"] ** g * optimum["D"]["value"]
    assert spent == pytest.approx(1e11, rel=1e-6)

    started.clear()
    assert main(given) == 0 and not started
    assert main([*given, "--config.design.budgets=(3e9,6e9)"]) == 0 and not started
    assert len(json.loads((out / "sweep.json").read_text())["points"]) == 7
    capsys.readouterr()
    assert main([*given, "--config.changes.seed=1"]) == 2
    error = capsys.readouterr().err
    assert "was run with another config: seed: 0 -> 1" in error and error.count("\n") == 1

    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Scaling laws: out" in page and "7 runs; L is heldout/main/loss" in page
    assert "Compute-optimal" in page and page.count("<svg") > 1 and "w64-3e9" in page


def test_wrong_input_of_a_run_ends_the_sweep(config, tmp_path, monkeypatch, capsys):
    started = []
    first = opened(config, tmp_path).jobs[0].name
    monkeypatch.setattr(sweep_jobs, "_start", pretend(started, {first: 2}))
    assert main(["sweep", "--config", config, "--workdir", str(tmp_path / "out")]) == 2
    assert started == [first]
    assert f"genjax: error: run {first}: config.x: wrong {first}" in capsys.readouterr().err


def test_sigterm_reaches_the_runs(config, tmp_path, monkeypatch):
    started = []

    def start(job, log):
        del job
        Path(log).touch()
        started.append(subprocess.Popen(["sleep", "60"]))
        if len(started) == 2:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[-1]

    monkeypatch.setattr(sweep_jobs, "_start", start)
    given = ["sweep", "--config", config, "--workdir", str(tmp_path / "out"), "--jobs", "2"]
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--config.design.budgets=(3e9,)"])
    assert stopped.value.code == 143
    assert [process.poll() for process in started] == [-signal.SIGTERM] * 2


def test_emitted_lines_are_the_runs(config, tmp_path):
    given = ["sweep", "--config", config, "--workdir", str(tmp_path / "out")]
    assert main([*given, "--emit", str(tmp_path / "jobs.jsonl")]) == 0
    assert main([*given, "--emit", str(tmp_path / "jobs.sh")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    shell = (tmp_path / "jobs.sh").read_text().splitlines()[2:]
    jobs = opened(config, tmp_path / "out").jobs
    assert [line["name"] for line in lines] == [job.name for job in jobs]
    assert [shlex.split(line) for line in shell] == [line["command"] for line in lines]
    assert lines[0]["command"] == ["genjax", *jobs[0].arguments]
    assert subprocess.run(["sh", "-n", str(tmp_path / "jobs.sh")], check=False).returncode == 0


@pytest.mark.parametrize(
    "given, message",
    [
        (["--jobs", "0"], "--jobs 0"),
        (["--fit", "--dry-run"], "exclude each other"),
        (["--emit", "x.txt"], "--emit: x.txt must end in .sh or .jsonl"),
        (["--config.design.budgets=(1e9,-1)"], "config.design: budgets"),
        (["--config.sizes.w8.task.model.width=7"], "config.sizes.w8: config.task.model"),
        (["--config.sizes.w8.task.model.depht=7"], "config.sizes.w8: config.task.model.depht"),
        (["--config.changes.heldout.every_images=0", "--config.shares={}"], "every_images is 0"),
        (["--config.base=none.py"], "there is no file none.py"),
        (["--config.embeddings=('.',)"], "config.embeddings: they match every parameter"),
        (["--config.design.least_images=1000000"], "no run is left"),
        (["--config.shares={'heldout.every_images':2.0}"], "does not lie in (0, 1]"),
        (["--config.fit.level=2"], "config.fit: huber"),
        (["--config.transfer=w7"], "config: transfer: 'w7' is none of the sizes"),
        (["--config.transfer=w8"], "transfer: heads have 16 channels here and 8"),
        (["--config.bogus=1"], "config.bogus: unknown key"),
    ],
)
def test_bad_input_is_one_line(config, tmp_path, capsys, given, message):
    out = str(tmp_path / "out")
    assert main(["sweep", "--config", config, "--workdir", out, *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path(out).exists()


def test_a_runs_folder_is_no_sweeps(config, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}}))
    assert main(["sweep", "--config", config, "--workdir", str(tmp_path)]) == 2
    assert "is no folder of a sweep" in capsys.readouterr().err


@pytest.mark.slow
def test_two_real_runs(config, tmp_path):
    """Two runs in processes of their own, then none: L is finite, with its error."""
    text = Path(config).read_text().replace("(8, 16, 32, 64)", "(8, 16)")
    Path(config).write_text(text.replace("(3e9, 6e9, 12e9)", "(1e8,)"))
    out = tmp_path / "out"
    given = ["sweep", "--config", config, "--workdir", out]
    done = genjax(*given)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "sweep.json").read_text())
    assert [p["name"] for p in found["points"]] == ["w16-1e8", "w8-1e8"]
    assert all(0 < p["loss"] < 5 and 0 < p["error"] < p["loss"] for p in found["points"])
    for point in found["points"]:
        lines = (out / "runs" / point["name"] / "metrics.jsonl").read_text().splitlines()
        last = next(x for x in map(json.loads, reversed(lines)) if "images_per_second" in x)
        logged = 1e12 * last["model_tflops"] / last["images_per_second"]
        assert point["flops"] == pytest.approx(logged * point["images"], rel=1e-6)
    again = genjax(*given)
    assert again.returncode == 0 and "2 of 2 runs are done" in again.stderr
    assert "started" not in again.stderr
