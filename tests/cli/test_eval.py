"""`genjax eval` from its arguments to its JSON: real digits, and a stand-in for the model."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import genjax.cli.model
from genjax.cli import eval as command
from genjax.cli import eval_inputs
from genjax.cli.main import main
from genjax.core.errors import UserError
from genjax.data import open_source
from genjax.evaluation import Reference
from genjax.evaluation.images import of_arrays, to_uint8


def digits(split="test"):
    source = open_source(f"digits:{split}")
    return to_uint8(source.images, 17), source.labels


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Stands for a classifier: features are pooled pixels, logits those of the nearest mean."""

    image: tuple = (8, 8, 1)
    model: object = dataclasses.field(default_factory=lambda: SimpleModel())

    def predict(self, params, images, *, levels):
        x = images.astype(jnp.float32).reshape(len(images), 64) / (levels - 1)
        distance = ((x[:, None] - params["means"][None]) ** 2).sum(-1)
        return {"features": x.reshape(-1, 16, 4).mean(-1), "logits": -distance}


@dataclasses.dataclass
class SimpleModel:
    width: int = 1


@dataclasses.dataclass
class Drawn:
    """Stands for a trained model: its samples are test digits of the class asked for."""

    config: dict | None
    step: int = 12
    ema: str = "main"
    text = None

    def __post_init__(self):
        sampler = SimpleNamespace(solver=SimpleNamespace(), guidance=SimpleNamespace(weight=1.5))
        solver = SimpleNamespace(adaptive=False)
        self.task = SimpleNamespace(
            image=(8, 8, 1), num_classes=10, nfe=50, sampler=sampler, solver=solver
        )
        self.params, self.frozen = {}, {}

    def generator(self, num, *, steps, guidance, solver, batch):
        images, _ = digits()

        def draw(params, frozen, *, num, labels: np.ndarray, seed, first, given):
            known = digits()[1]
            pick = [np.flatnonzero(known == k)[i % 30] for i, k in enumerate(labels)]
            for start in range(first, num, batch):
                stop = min(start + batch, num)
                yield images[pick[start:stop]], labels[start:stop]

        draw.task, draw.measures = self.task, {}
        return draw


@pytest.fixture
def trained(monkeypatch):
    x, y = digits("train")
    flat = x.reshape(len(x), 64) / 255
    means = jnp.asarray(np.stack([flat[y == k].mean(0) for k in range(10)]), jnp.float32)
    monkeypatch.setattr(command, "load_classifier", lambda path: (Pixels(), {"means": means}))
    target = {"metric": "label_agreement", "value": 0.8, "protocol": "labels balanced; NFE 50"}
    config = {"target": target, "data": {}}
    monkeypatch.setattr(genjax.cli.model, "load", lambda path, ema=None: Drawn(config))


def run(*arguments, tmp_path):
    out = tmp_path / "report.json"
    folders = ["--cache", str(tmp_path / "cache"), "--progress", str(tmp_path / "progress")]
    code = main(["eval", *arguments, *folders, "--json", str(out)])
    assert code == 0
    return json.loads(out.read_text())


def test_a_workdir_against_digits(tmp_path, trained, capsys):
    metrics = "fid,label_agreement,spread,nearest"
    report = run(
        *("--workdir", "runs/x", "--reference", "digits", "--num", "200", "--batch", "64"),
        *("--metrics", metrics, "--extractor", "classifier:runs/c"),
        tmp_path=tmp_path,
    )
    agreement = report["metrics"]["label_agreement"]
    assert agreement["target"] == 0.8
    assert agreement["difference"] == pytest.approx(agreement["value"] - 0.8)
    for clause in ("labels balanced", "NFE 50", "guidance 1.5", "weights main", "step 12"):
        assert clause in agreement["protocol"]
    fid = report["metrics"]["fid"]
    assert fid["reference"] == "digits" and fid["reference_n"] == 1437 and fid["n"] == 200
    assert "grey levels 0..16 as round(v 255/16)" in fid["protocol"]
    assert fid["context"]["uniform noise"]["value"] > 5 * fid["value"]
    assert fid["context"]["real digits:test"]["n"] == 200
    assert report["metrics"]["nearest"]["value"] == pytest.approx(1, abs=0.15)
    assert report["metrics"]["spread"]["value"] == pytest.approx(1, abs=0.1)
    text = capsys.readouterr().out
    assert "target 0.8, difference +" in text and "for real digits:test" in text


@pytest.mark.parametrize(
    "reference, count", [("digits:train", 1437), ("npz", 1437), ("statistics", None)]
)
def test_samples_from_a_file(tmp_path, trained, reference, count):
    x, y = digits()
    np.savez(tmp_path / "s.npz", arr_0=x, labels=y)
    if reference == "npz":
        reference = str(tmp_path / "r.npz")
        np.savez(reference, arr_0=digits("train")[0])
    if reference == "statistics":
        reference = str(tmp_path / "r.npz")
        np.savez(reference, mu=np.zeros(16), sigma=np.eye(16))
    samples = ["--samples", str(tmp_path / "s.npz"), "--num", "100"]
    extractor = ["--extractor", "classifier:c"]
    report = run(
        *samples, "--reference", reference, "--metrics", "fid", *extractor, tmp_path=tmp_path
    )
    assert report["n"] == 100 and report["target"] is None
    assert report["metrics"]["fid"]["reference_n"] == count
    assert any("does not say" in w for w in report["warnings"]) == (count is None)


def test_label_rules():
    reference = Reference(
        "r", of_arrays("r", np.zeros((3, 8, 8, 1), np.uint8), np.array([4, 4, 7]))
    )

    def labels(rule, classes=10, num=3000):
        return command.labels_by_rule(rule, num, classes, reference, 0)

    assert np.array_equal(labels("balanced", num=12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    assert np.bincount(labels("uniform")).min() > 200
    assert set(labels("data")) == {4, 7} and abs(np.mean(labels("data") == 4) - 2 / 3) < 0.05
    assert labels("data", classes=0) is None
    with pytest.raises(UserError, match="has no labels"):
        command.labels_by_rule("data", 3, 10, Reference("stats"), 0)


def test_other_sizes_are_brought_to_the_samples_and_said():
    data = command.open_data("digits", (16, 16, 3), None)
    assert data.shape == (16, 16, 3) and "8x8x1 brought to 16x16x3" in data.made
    padded = {"image_size": None, "crop": "center", "channels": None, "pad": 2}
    stream = {"source": {"name": "digits", "split": "train"}} | padded
    data = command.open_data("digits:test", (12, 12, 1), {"data": {"main": stream}})
    assert data.shape == (12, 12, 1) and data.read(np.arange(3))[:, :2].max() == 0


def test_large_sets_are_read_when_needed(monkeypatch):
    whole = command.open_data("digits:test", (8, 8, 1), None)
    monkeypatch.setattr(eval_inputs, "IN_MEMORY", 0)
    lazy = command.open_data("digits:test", (8, 8, 1), None)
    assert np.array_equal(lazy.read(np.array([5, 2])), whole.read(np.array([5, 2])))
    assert np.array_equal(lazy.labels, whole.labels)
    assert lazy.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--samples {x} --reference digits --metrics fid", "fid needs a feature network"),
        ("--samples {x} --reference digits --metrics fied", "'fied' is no metric"),
        ("--samples {x} --reference mnists --metrics spread", "'mnists' is no source"),
        ("--samples {x} --reference none.npz --metrics spread", "none.npz: there is no such file"),
        ("--samples no.npz --reference digits --metrics spread", "no.npz: there is no such file"),
        ("--samples {x} --reference digits --metrics spread --num 0", "--num: must be at least 1"),
        ("--samples {x} --reference digits --metrics spread --num 999", "holds 360 images"),
        ("--samples {x} --reference digits --metrics spread --steps 5", "goes with --workdir"),
        ("--samples {x} --reference digits --metrics spread --json {x}/r", "cannot be written"),
        (
            "--samples {x} --reference synthetic --metrics label_agreement",
            "needs a feature network",
        ),
        ("--reference digits --metrics spread", "--workdir --samples is required"),
        (
            "--samples {x} --reference digits --metrics fid --extractor classifier:{dir}",
            "no config.json there",
        ),
    ],
)
def test_wrong_inputs_are_one_line(tmp_path, capsys, arguments, message):
    np.savez(tmp_path / "x.npz", arr_0=digits()[0])
    text = arguments.format(x=tmp_path / "x.npz", dir=tmp_path)
    assert main(["eval", *text.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("genjax: error: ") and message in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz"]
