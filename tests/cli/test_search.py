"""`genjax search`: from its config to a schedule that `genjax sample` follows; resumed; refused."""

import json

import numpy as np
import pytest

from genjax.cli.config import read_file
from genjax.cli.main import main
from genjax.cli.model import load
from genjax.cli.trials import SearchRun, Trials
from genjax.core.registry import construct, expand
from tests.end_to_end.commands import ROOT, TINY, flags

STEPS = str(ROOT / "configs" / "search" / "steps.py:3")
SMALL = {
    "reference": "digits",
    "metric": "spread",
    "num": 4,
    "batch": 4,
    "space.choices": 12,
    "method.population": 6,
    "method.elites": 2,
    "method.mutants": 2,
    "method.crossings": 2,
    "method.generations": 1,
    "final.top": 2,
    "final.num": 4,
    "final.seeds": "(7,8)",
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("search") / "run")
    config, small = str(ROOT / "configs" / "quickstart.py"), {**TINY, "task.model.depth": 2}
    assert main(["train", "--config", config, "--workdir", path, *flags(small)]) == 0
    return path


def run_search(workdir, out, *more, **changed):
    given = flags({**SMALL, "model": workdir, **changed})
    return main(["search", "--config", STEPS, "--workdir", str(out), *given, *more])


@pytest.fixture(scope="module")
def done(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "search"
    assert run_search(workdir, out, "--export", str(out.parent / "best.json")) == 0
    return out


def test_results_hold_the_best_beside_the_baselines(done):
    report = json.loads((done / "results.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    by_hand = read_file(STEPS)["baselines"]
    assert list(rows) == ["as configured", *by_hand, "found 1", "found 2"]
    assert rows["found 1"]["searched"] <= rows["found 2"]["searched"]
    assert len(by_hand) > 5 and {rows[name]["nfe"] for name in [*by_hand, "found 1"]} == {3}
    assert all(len(row["values"]) == 2 for row in rows.values())
    values = [json.loads(line) for line in (done / "candidates.jsonl").read_text().splitlines()]
    assert len(values) == report["candidates"] == 12
    assert min(v["value"] for v in values) == rows["found 1"]["searched"]
    best = rows[report["best"]]
    assert best["mean"] == min(rows[f"found {i}"]["mean"] for i in (1, 2))
    times = report["schedule"]["sampler"]["grid"]["t"]
    assert len(times) == 4 and times == sorted(times, reverse=True) and times[-1] == 0
    assert (done / "convergence.png").read_bytes()[:4] == b"\x89PNG"
    assert (done.parent / "best.json").read_bytes() == (done / "schedule.json").read_bytes()


def test_sample_follows_the_schedule(done, workdir, tmp_path, capsys):
    out, schedule = tmp_path / "s.npz", str(done / "schedule.json")
    base = ["sample", "--workdir", workdir, "--num", "4", "--out", str(out), "--seed", "7"]
    assert main([*base, "--schedule", schedule]) == 0
    assert "with 3 evaluations each" in capsys.readouterr().out
    images = np.load(out)["arr_0"]
    model = load(workdir)
    np.testing.assert_array_equal(images, model.sample(4, schedule=schedule, seed=7))
    # The same grid by the config's own keys.
    times = json.loads((done / "schedule.json").read_text())["sampler"]["grid"]["t"]
    task = model.scheduled(schedule).task
    assert list(task.sampler.grid.t) == times and task.sampler.steps == 3
    assert task.sampler.guidance == model.task.sampler.guidance
    assert main([*base, "--schedule", schedule, "--steps", "5"]) == 2
    assert "--schedule: holds solver and steps" in capsys.readouterr().err


def test_a_second_call_measures_no_candidate_again(done, workdir, monkeypatch, capsys):
    before = (done / "results.json").read_bytes()

    def never(self, candidate):
        raise AssertionError("measured again")

    monkeypatch.setattr(Trials, "fitness", never)
    assert run_search(workdir, done) == 0
    assert (done / "results.json").read_bytes() == before


def test_cut_off_and_continued_equals_uninterrupted(done, workdir, tmp_path, monkeypatch):
    out, calls = tmp_path / "again", []
    measure = Trials.fitness

    def cut(self, candidate):
        calls.append(candidate)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return measure(self, candidate)

    with monkeypatch.context() as patch:
        patch.setattr(Trials, "fitness", cut)
        with pytest.raises(KeyboardInterrupt):
            run_search(workdir, out)
    assert len((out / "candidates.jsonl").read_text().splitlines()) == 7
    assert run_search(workdir, out) == 0
    for name in ("candidates.jsonl", "results.json", "schedule.json"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def trials(workdir, **changed):
    full = {
        "model": workdir,
        "reference": "digits",
        "metric": "spread",
        "num": 2,
        "batch": 2,
        "space": {"name": "steps", "steps": 4},
        **changed,
    }
    return Trials.open(construct(SearchRun, expand(SearchRun, full, "config"), "config"))


@pytest.mark.parametrize("prune", [0.0, 0.5])
def test_fifty_candidates_compile_once(workdir, prune):
    space = {"name": "steps", "steps": 4, "choices": 100, "prune": prune, "most": 6 if prune else 0}
    made = trials(workdir, space=space)
    rng = np.random.default_rng(0)
    candidates = {made.space.random(rng, prune) for _ in range(60)}
    values = [made.fitness(c) for c in list(candidates)[:50]]
    assert len(values) == 50 and len(set(values)) > 20  # grey levels of two barely trained images
    assert made.compilations == 1
    lengths = {len(c) for c in candidates}
    assert lengths == ({4} if not prune else lengths) and (not prune or len(lengths) > 1)


def test_the_uniform_candidate_is_the_uniform_grid(workdir):
    made = trials(workdir, space={"name": "steps", "steps": 4, "choices": 100})
    found = made.draw(made.changes(made.space.first()), 4, 3).read(np.arange(4))
    want = made.draw({"steps": 4}, 4, 3).read(np.arange(4))
    np.testing.assert_array_equal(found, want)


def test_a_skipped_block_is_the_networks_mask(workdir):
    space = {"name": "steps", "steps": 2, "choices": 10, "prune": 0.5, "most": 4}
    made = trials(workdir, space=space)
    assert getattr(made.space, "blocks", 0) == made.model.task.model.depth == 2
    whole = made.draw(made.changes(((0, ()), (5, ()))), 4, 0).read(np.arange(4))
    plain = made.draw({"steps": 2}, 4, 0).read(np.arange(4))
    np.testing.assert_allclose(whole.astype(int), plain.astype(int), atol=1)
    part = made.draw(made.changes(((0, (1,)), (5, ()))), 4, 0).read(np.arange(4))
    assert np.any(part != whole)


def test_maximising_turns_the_sign(workdir):
    up, down = trials(workdir, maximize=True), trials(workdir)
    c = up.space.first()
    assert up.fitness(c) == -down.fitness(c)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space.stepz": 3}, "config.space.stepz: unknown key"),
        ({"metric": "fidd"}, "config: metric: 'fidd' is none of"),
        ({"metric": "fid", "extractor": ""}, "config.extractor: fid needs a feature network"),
        ({"metric": "bpd"}, "config.metric: bpd measures no samples"),
        ({"sampler.stepz": 3}, "config.sampler.stepz: unknown key"),
        ({"baselines.a.grid.name": "nothing"}, "config.baselines.a.grid.name: 'nothing' is no"),
        ({"model": "nowhere"}, "nowhere: no config.json there"),
        ({"labels": "some"}, "config: labels: 'some' is none of balanced"),
        ({"final.seeds": "()"}, "config.final: top is at least 1"),
        ({"space.name": "product", "space.values": "{'inputs.rho': (1.0,)}"}, "unknown key"),
        ({"space.name": "product", "space.values": "{}"}, "values: give at least one key"),
    ],
)
def test_bad_input_is_one_line(workdir, tmp_path, capsys, changed, message):
    drop = changed.get("space.name") == "product"
    small = {k: v for k, v in SMALL.items() if not (drop and k.startswith("space."))}
    given = flags({**small, "model": workdir, **changed})
    code = main(["search", "--config", STEPS, "--workdir", str(tmp_path / "x"), *given])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and message in error
    assert not (tmp_path / "x").exists()


def test_another_search_on_the_same_workdir_is_refused(done, workdir, capsys):
    assert run_search(workdir, done, seed=1) == 2
    assert "holds another search (seed differ)" in capsys.readouterr().err


def test_files_that_are_no_schedule_are_refused(workdir, tmp_path, capsys):
    base = ["sample", "--workdir", workdir, "--num", "1", "--out", str(tmp_path / "s.npz")]
    for name, text, message in (
        ("a.json", "{", "is no schedule"),
        ("b.json", '{"format": "other", "sampler": {}}', "has the format 'other'"),
        ("c.json", '{"format": "genjax-schedule-1", "sampler": {"x": 1}}', "unknown key"),
    ):
        (tmp_path / name).write_text(text)
        assert main([*base, "--schedule", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert main([*base, "--schedule", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
