"""`genjax train`: what it writes, how it resumes, what may change, where it may start from."""

import json
import uuid

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax.checkpoint import Checkpoints, Workdir
from genjax.cli.config import read_file, resolve
from genjax.cli.main import main
from genjax.cli.schema import build_run, expand_run
from genjax.cli.warm_start import warm_start
from genjax.core.tree import flatten, size
from genjax.training.state import unboxed
from genjax.weights import dit
from genjax.weights.io import write_safetensors
from tests.end_to_end.commands import ROOT, TINY, flags
from tests.weights.recipe import weights as filled

CONFIG = str(ROOT / "configs" / "quickstart.py")
BASE = {
    "train.images": 8 * 6,
    "checkpoint.every_images": 0,
    "samples.every_images": 8 * 4,
    "samples.num": 4,
    "heldout.every_images": 8 * 3,
    "heldout.num": 16,
    "heldout.batch": 8,
}


def train(workdir, **changes):
    """Returns the exit code; changes use "__" for dots, None drops a key of the base."""
    changed = TINY | BASE | {k.replace("__", "."): v for k, v in changes.items()}
    chosen = flags({k: v for k, v in changed.items() if v is not None})
    return main(["train", "--config", CONFIG, "--workdir", str(workdir), *chosen])


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of six steps; read only."""
    path = tmp_path_factory.mktemp("train") / "run"
    assert train(path) == 0
    return path


def test_config_json_says_what_the_run_is(workdir):
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["train"]["images"] == 48
    assert record["config"]["task"]["model"]["width"] == 32
    assert record["config"]["data"]["main"]["source"] == {"name": "digits", "split": "train"}
    run = build_run(genjax.load(str(workdir)).config)  # complete: it builds the run again
    assert run.task.model.width == 32 and run.heldout.num == 16
    assert record["flags"][:3] == ["train", "--config", CONFIG]
    assert "--config.train.images=48" in record["flags"]
    assert set(record["versions"]) == {"jax", "flax", "optax", "orbax-checkpoint"}
    assert record["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1, "context": 1}
    assert record["parameters"] == size(Checkpoints(str(workdir)).restore_params()[0])
    assert record["frozen"] == {} and record["devices"][1] == 8
    assert record["revision"] is None or len(record["revision"]) == 40


def test_every_step_is_a_line_of_metrics(workdir):
    steps = [line for line in metrics(workdir) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["images"] for line in steps] == [8, 16, 24, 32, 40, 48]
    assert all(0 < line["loss"] < 100 for line in steps)
    # The first rate may be unknown (compiling is no part of it), later ones are not.
    assert all(line["images_per_second"] > 0 for line in steps[1:])
    seconds = [line["seconds"] for line in steps]
    assert seconds == sorted(seconds) and seconds[0] >= 0


def test_heldout_loss_of_raw_and_averaged_weights_is_logged(workdir):
    lines = [line for line in metrics(workdir) if "heldout/raw/loss" in line]
    assert [line["images"] for line in lines] == [24, 48]
    for line in lines:
        assert 0 < line["heldout/main/loss"] < 100
        assert line["heldout/main/loss"] != line["heldout/raw/loss"]


def test_the_first_batch_and_sample_grids_can_be_looked_at(workdir):
    first = {p.name for p in (workdir / "first_batch" / "main").iterdir()}
    assert any(name.endswith(".png") for name in first)
    assert any(not name.endswith(".png") for name in first), first  # the numbers
    grids = sorted(p.name for p in (workdir / "samples").iterdir())
    assert grids == [f"{images:012d}_{name}.png" for images in (32, 48) for name in ("main", "raw")]
    for name in grids:  # pictures with something in them
        pixels = np.asarray(Image.open(workdir / "samples" / name))
        assert pixels.size > 4 * 8 * 8 and pixels.std() > 10


def test_a_second_call_resumes_and_says_what_changed(tmp_path, capsys):
    path = tmp_path / "run"
    quiet = {"samples__every_images": 0, "heldout__every_images": 0}
    assert train(path, train__images=16, **quiet) == 0
    before = flatten(Checkpoints(str(path)).restore_params()[0])
    capsys.readouterr()

    # Mesh, length and cadence may change; each is listed.
    changes = {"train__images": 32, "mesh__data": 4, "mesh__tensor": 2, "log__every_images": 16}
    assert train(path, **quiet, **changes) == 0
    out, err = capsys.readouterr()
    listed = {
        line.removeprefix("changed since the run began: ")
        for line in out.splitlines()
        if line.startswith("changed")
    }
    assert listed == {
        "train.images: 16 -> 32",
        "mesh.data: -1 -> 4",
        "mesh.tensor: 1 -> 2",
        "log.every_images: 8 -> 16",
    }
    assert "resumed from step 2 (16 images)" in err and "'tensor': 2" in err
    assert [line["step"] for line in metrics(path)] == [1, 2, 4]
    assert Checkpoints(str(path)).latest() == 4
    record = json.loads((path / "config.json").read_text())
    assert record["config"]["train"]["images"] == 32 and record["mesh"]["tensor"] == 2
    after = flatten(Checkpoints(str(path)).restore_params()[0])
    assert any(np.any(after[k] != before[k]) for k in before)

    # What a run is may not change.
    saved = (path / "config.json").read_bytes()
    wrong = {"optimizer__model__learning_rate": 0.1, "data__main__batch": 16, "ema__main__decay": 0}
    assert train(path, **quiet, **changes, **wrong) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "this workdir holds another run" in captured.err
    for words in (
        "optimizer.model.learning_rate: 0.001 -> 0.1",
        "data.main.batch: 8 -> 16",
        "ema.main.decay: 0.999 -> 0.0",
    ):
        assert words in captured.err
    assert "train.images" not in captured.err
    assert (path / "config.json").read_bytes() == saved


def test_a_workdir_in_an_object_store_trains_and_resumes(capsys):
    path = f"memory://genjax-{uuid.uuid4().hex}/run"
    less = {"heldout__every_images": 0, "samples__every_images": 16}
    assert train(path, train__images=16, **less) == 0
    assert train(path, train__images=24, **less) == 0
    assert "resumed from step 2 (16 images)" in capsys.readouterr().err
    workdir = Workdir(path)
    assert workdir.read_json("config.json")["config"]["train"]["images"] == 24
    lines = workdir.read("metrics.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert workdir.listing("first_batch", "main") and "000000000016_raw.png" in workdir.listing(
        "samples"
    )
    assert Checkpoints(path).latest() == 3
    model = genjax.load(path)
    assert model.step == 3 and model.sample(num=1, steps=1).shape == (1, 8, 8, 1)


# --- fine-tuning --------------------------------------------------------------------------------

PUBLIC = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 3,
    "hidden_size": 32,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "num_classes": 7,
    "learn_sigma": False,
    "class_dropout_prob": 0.1,
}


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A state dict in facebook-dit's layout, of seven classes."""
    path = tmp_path_factory.mktemp("public") / "dit.safetensors"
    write_safetensors(
        path, filled({k: v for k, v in dit.shapes(PUBLIC).items() if k != dit.POSITIONS})
    )
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's own pictures: two classes, sixteen files."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


def still(source, init):
    """One step of a learning rate that moves nothing, on `source`, from `init`."""
    return {
        "init__model": init,
        "train__images": 8,
        "optimizer__model__learning_rate": 1e-12,
        "samples__every_images": 0,
        "heldout__every_images": 0,
        **source,
    }


def pictures(folder):
    return {
        "data__main__source__name": "image_folder",
        "data__main__source__path": folder,
        "data__main__image_size": 8,
        "task__levels": 256,
        "task__image": "(8,8,3)",
        "task__model__num_classes": 2,
    }


def assert_begins_from(workdir, want, but=()):
    """Raw and averaged parameters are `want`, but for those replaced."""
    for name in ("raw", "main"):
        found = flatten(genjax.load(str(workdir), ema=name).params)
        assert found.keys() == want.keys()
        for k, value in want.items():
            if k not in but:
                np.testing.assert_allclose(found[k], value, atol=1e-6, err_msg=f"{name} {k}")


def test_public_weights_are_fine_tuned_on_the_user_s_folder(tmp_path, public, folder, capsys):
    run = tmp_path / "run"
    assert train(run, **still(pictures(folder), f"facebook-dit:{public}")) == 0
    out = capsys.readouterr().out
    assert "init.model from facebook-dit:" in out
    assert "tensors matched; 1 replaced (label/table)" in out and "missing" not in out
    want = flatten(genjax.weights.load("facebook-dit", public, num_heads=2)[1]["params"])
    assert_begins_from(run, want, but=("label/table",))
    raw, averaged = (flatten(genjax.load(str(run), ema=e).params) for e in ("raw", "main"))
    assert raw["label/table"].shape == (3, 32)
    np.testing.assert_allclose(averaged["label/table"], raw["label/table"], atol=1e-6)
    assert json.loads((run / "config.json").read_text())["config"]["init"] == {
        "model": f"facebook-dit:{public}"
    }

    # A second call resumes; it does not start from the weights again.
    changed = still(pictures(folder), f"facebook-dit:{public}") | {"train__images": 16}
    assert train(run, **changed) == 0
    out, err = capsys.readouterr()
    assert "resumed from step 1" in err and "init.model" not in out


def begun_from(init, **changes):
    """Returns the parameters that a run with `init` begins from, by path."""
    given = {"task.model.depth": 1, "task.model.width": 32, "task.model.heads": 2}
    given |= {k.replace("__", "."): v for k, v in changes.items()} | {"init.model": init}
    overrides = [(k, str(v)) for k, v in given.items()]
    run = build_run(resolve(read_file(CONFIG), overrides, expand_run))
    shapes = unboxed(jax.eval_shape(run.task.init, jax.random.key(0)))["params"]
    zeros = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), shapes)
    return flatten(warm_start(run)(zeros)["model"])


def test_a_converted_folder_is_a_start(tmp_path, public, folder, capsys):
    converted = str(tmp_path / "converted")
    arguments = ["--in", public, "--out", converted, "--field", "num_heads=2"]
    assert main(["convert", "--from", "facebook-dit", *arguments]) == 0
    found = begun_from(converted, **pictures(folder))
    assert f"init.model from {converted}: " in capsys.readouterr().out
    want = flatten(genjax.weights.load("facebook-dit", public, num_heads=2)[1]["params"])
    assert found.keys() == want.keys() and not np.any(found.pop("label/table"))
    for k, value in found.items():
        np.testing.assert_array_equal(value, want[k])


def test_another_run_is_a_start_with_its_average(workdir, capsys):
    found, want = begun_from(str(workdir)), flatten(genjax.load(str(workdir)).params)
    assert f"{len(want)} tensors matched\n" in capsys.readouterr().out
    assert found.keys() == want.keys()
    for k, value in want.items():
        np.testing.assert_array_equal(found[k], value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task__model__width": 64}, "choose the size of the network that the weights are of"),
        ({"task__model__heads": 5}, "heads"),
        ({"init__model": "sit:/nowhere.safetensors"}, "/nowhere.safetensors"),
    ],
)
def test_weights_that_do_not_fit_leave_nothing(tmp_path, public, folder, capsys, changes, words):
    run = tmp_path / "run"
    assert train(run, **still(pictures(folder), f"facebook-dit:{public}") | changes) == 2
    assert words in capsys.readouterr().err
    assert not run.exists()
