"""`genjax eval --metrics bpd` on a task whose density is known, and samples of the adaptive ODE."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax.cli.model
from genjax.cli.main import main
from genjax.cli.model import Model
from genjax.core.errors import UserError
from genjax.parallel import MeshSpec, replicated
from tests.cli.test_eval import digits
from tests.tasks.known import PARAMS, STD, known

FLAGS = ["eval", "--workdir", "runs/x", "--reference", "digits:test", "--metrics", "bpd"]


def model(mesh=None, **fields):
    made = known(**{"image": (8, 8, 1), **fields})
    params = PARAMS if mesh is None else jax.device_put(PARAMS, replicated(mesh))
    return Model(made, params, {}, "main", {"data": {}}, 12, mesh)


@pytest.fixture
def loaded(monkeypatch):
    def use(given):
        monkeypatch.setattr(genjax.cli.model, "load", lambda path, **asked: given)

    use(model())
    return use


def run(tmp_path, *more):
    out = tmp_path / "report.json"
    assert main([*FLAGS, *more, "--json", str(out)]) == 0
    return json.loads(out.read_text())


def expected(x, shift=0.1):
    """Returns the mean bits/dim of grey values 0..16: the integral over each cell, pixel by pixel.

    E log p over the cell [low, low + w) of N(shift, STD^2), in [-1, 1].
    """
    low = -1 + 2 / 17 * x - shift
    w = 2 / 17
    second = ((low + w) ** 3 - low**3) / (3 * w)  # the mean of (pixel - shift)^2 over the cell
    logp = -0.5 * second / STD**2 - np.log(STD) - 0.5 * np.log(2 * np.pi)
    return -logp.mean(axis=(1, 2, 3)) / np.log(2) + np.log2(17 / 2)


def test_all_images_of_the_reference(tmp_path, loaded, capsys):
    report = run(tmp_path, "--tolerance", "1e-3", "--batch", "128")
    entry = report["metrics"]["bpd"]
    each = expected(np.rint(digits("test")[0] * (16 / 255)))
    assert entry["n"] == entry["reference_n"] == len(each) == 360 and report["samples"] is None
    assert entry["value"] == pytest.approx(each.mean(), abs=0.02)
    assert entry["details"]["standard_error"] == pytest.approx(each.std() / 360**0.5, rel=0.05)
    for clause in (
        "probability-flow ODE from t = 1e-05 to 1",
        "rk45 with rtol 0.001 and atol 0.001 per sample",
        "1 rademacher probe; uniform dequantisation of 17 levels; no labels",
        "weights main; step 12; 1 pass; NFE ",
        "grey levels 0..16 as round(v 255/16)",
    ):
        assert clause in entry["protocol"]
    text = capsys.readouterr().out
    assert "images of digits:test" in text and "(standard error)" in text


def test_devices_and_batches_do_not_matter(tmp_path, loaded):
    few = ["--images", "12", "--probes", "2", "--passes", "2", "--seed", "3"]
    one = run(tmp_path, *few, "--batch", "5")["metrics"]["bpd"]
    loaded(model(MeshSpec().build()))
    many = run(tmp_path, *few, "--batch", "12")["metrics"]["bpd"]
    assert many["n"] == 12 and "2 rademacher probes" in many["protocol"]
    assert many["details"]["passes"] == pytest.approx(one["details"]["passes"], abs=2e-4)
    assert len(set(one["details"]["passes"])) == 2


def test_classes_are_told_the_labels_of_the_data(tmp_path, loaded):
    loaded(model(classes=10))
    entry = run(tmp_path, "--tolerance", "1e-3")["metrics"]["bpd"]
    x, y = digits("test")
    shift = 0.1 + y[:, None, None, None] / 10
    each = expected(np.rint(x * (16 / 255)), shift)
    assert entry["value"] == pytest.approx(each.mean(), abs=0.03)
    assert "labels of the data" in entry["protocol"]
    np.savez(tmp_path / "bare.npz", arr_0=x[:10])
    flags = [*FLAGS[:4], str(tmp_path / "bare.npz"), *FLAGS[5:], "--tolerance", "1e-3"]
    out = tmp_path / "bare.json"
    assert main([*flags, "--json", str(out)]) == 0
    entry = json.loads(out.read_text())["metrics"]["bpd"]
    each = expected(np.rint(x[:10] * (16 / 255)), 0.1 + 1.0)  # the null label is 10
    assert (
        entry["value"] == pytest.approx(each.mean(), abs=0.2) and "null label" in entry["protocol"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--metrics spread --passes 2", "--passes: belongs to bits/dim; add bpd to --metrics"),
        ("--passes 0", "passes must be at least 1"),
        ("--probe normal", "probe must be rademacher, gaussian or exact"),
        ("--tolerance 0", "rtol and atol must be positive"),
        ("--eps 2", "eps: must be positive and below the end 1"),
        ("--reference synthetic", "other grey values than the 17 levels"),
        ("--reference {tmp}/s.npz", "bpd needs the images themselves"),
    ],
)
def test_wrong_inputs_are_one_line(tmp_path, loaded, capsys, arguments, message):
    np.savez(tmp_path / "s.npz", mu=np.zeros(4), sigma=np.eye(4))
    assert main([*FLAGS, *arguments.format(tmp=tmp_path).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("genjax: error: ") and message in error and error.count("\n") == 1


def test_samples_have_no_density(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", arr_0=digits()[0][:4])
    flags = ["--samples", str(tmp_path / "x.npz"), *FLAGS[3:]]
    assert main(["eval", *flags]) == 2
    assert "bpd asks the model itself; it goes with --workdir" in capsys.readouterr().err


def test_latents_have_no_bits_of_pixels(loaded, capsys):
    given = model()
    loaded(dataclasses.replace(given, task=dataclasses.replace(given.task, latents=True)))
    assert main(FLAGS) == 2
    assert "bits/dim: this model is of a codec's latents" in capsys.readouterr().err


SOLVER = {"name": "rk45", "rtol": 1e-4, "atol": 1e-4}
GRID = {"name": "uniform", "end": 1e-3}


def test_samples_of_the_adaptive_ode_count_their_evaluations(tmp_path, loaded, capsys):
    loaded(model(sampler={"solver": SOLVER, "grid": GRID}))
    out = tmp_path / "out.json"
    flags = [*FLAGS[:5], "--metrics", "spread", "--num", "16", "--json", str(out)]
    assert main(["eval", *flags[1:]]) == 0
    protocol = json.loads(out.read_text())["metrics"]["spread"]["protocol"]
    clause = next(c for c in protocol.split("; ") if c.startswith("NFE "))
    mean, low, _, high = clause.removeprefix("NFE ").replace("(", "").replace(")", "").split()
    assert 20 < int(low) <= float(mean) <= int(high) < 200
    files = ["--num", "5", "--out", str(tmp_path / "s.npz"), "--solver", "rk45"]
    assert main(["sample", "--workdir", "runs/x", *files]) == 0
    assert "evaluations each" in capsys.readouterr().out
    pixels = np.load(tmp_path / "s.npz")["arr_0"]
    assert pixels.std() == pytest.approx(STD * 127.5, rel=0.15)


def test_samples_that_do_not_end_are_an_error():
    drawn = model(sampler={"solver": {**SOLVER, "max_steps": 3}, "grid": GRID})
    with pytest.raises(UserError, match=r"max_steps: 4 of 4 samples did not reach the end"):
        drawn.sample(4)


def test_an_interval_of_guidance_needs_a_grid():
    guidance = {"name": "cfg", "weight": 2.0, "interval": (0.1, 1.0)}
    made = known(classes=10, sampler={"solver": SOLVER, "grid": GRID, "guidance": guidance})
    with pytest.raises(UserError, match="an adaptive solver chooses its own times"):
        made.rows()


def test_guided_samples_of_the_ode():
    """Guidance of two Gaussians of one width is the Gaussian of the extrapolated mean."""
    guidance = {"name": "cfg", "weight": 2.0}
    sampler = {"solver": SOLVER, "grid": GRID, "guidance": guidance}
    made = known(classes=10, data_range=(-4.0, 4.0), sampler=sampler)
    drawn = Model(made, {"shift": jnp.float32(0.1)}, {}, "main").sample(64, labels=[4])
    x = drawn / 255 * 8 - 4
    assert x.mean() == pytest.approx(0.1 + 1.0 + 2 * (0.4 - 1.0), abs=0.1)
