"""`genjax.load`: the Python way gives what the commands give, and what the formulas say."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax.checkpoint import Checkpoints
from genjax.cli.main import main
from genjax.core.errors import UserError
from genjax.core.tree import flatten
from genjax.weights import dit, native
from tests.end_to_end.commands import ROOT, TINY, flags
from tests.weights.recipe import golden
from tests.weights.recipe import weights as filled

IMAGES = 8 * 12
POWER = {
    "ema.wide.name": "power",
    "ema.wide.sigma_rel": 0.2,
    "ema.narrow.name": "power",
    "ema.narrow.sigma_rel": 0.05,
    "checkpoint.ema_every_images": 8 * 6,
    "checkpoint.every_images": 0,
}
CALL = {"num": 16, "labels": [3] * 16, "steps": 5, "guidance": 2.0, "seed": 0}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of twelve steps, fast enough for its averages to lag behind."""
    path = str(tmp_path_factory.mktemp("model") / "run")
    changed = {"train.images": IMAGES, "optimizer.model.learning_rate": 2e-2, **POWER}
    config = str(ROOT / "configs" / "quickstart.py")
    assert main(["train", "--config", config, "--workdir", path, *flags(TINY | changed)]) == 0
    return path


@pytest.fixture(scope="module")
def model(workdir):
    return genjax.load(workdir)


@pytest.fixture(scope="module")
def images(model):
    return model.sample(**CALL)


def assert_same(found, want):
    assert found.shape == want.shape
    difference = np.abs(found.astype(int) - want.astype(int))
    assert difference.max() <= 1 and np.mean(difference == 0) >= 0.999


def apply(module, variables, x, time, labels):
    """The raw network, compiled as a whole."""
    return np.asarray(jax.jit(module.apply)(variables, x, time, np.asarray(labels)))


def test_sample_returns_the_images_of_the_interface(model, images):
    assert images.shape == (16, 8, 8, 1) and images.dtype == np.uint8
    assert len(np.unique(images.reshape(16, -1), axis=0)) == 16
    assert model.ema == "main" and model.step == IMAGES // 8
    assert model.config["train"]["images"] == IMAGES
    assert_same(model.sample(**CALL, batch=5), images)


def test_the_command_writes_the_same_images(workdir, images, tmp_path, capsys):
    base = ["sample", "--workdir", workdir, "--labels", "3", "--steps", "5", "--guidance", "2"]
    npz, grid = tmp_path / "s.npz", tmp_path / "grid.png"
    assert main([*base, "--num", "16", "--out", str(npz), "--grid", str(grid)]) == 0
    assert "16 samples of the weights 'main' with 5 evaluations each" in capsys.readouterr().out
    with np.load(npz, allow_pickle=False) as file:
        assert sorted(file.files) == ["arr_0", "arr_1", "labels"]
        assert_same(file["arr_0"], images)
        for key in ("arr_1", "labels"):
            assert file[key].tolist() == [3] * 16 and file[key].dtype == np.int32
    assert np.asarray(Image.open(grid)).size > 16 * 64
    assert [p.name for p in tmp_path.iterdir() if p not in (npz, grid)] == []

    folder = tmp_path / "pngs"
    assert main([*base, "--num", "3", "--batch", "8", "--out", str(folder)]) == 0
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["000000.png", "000001.png", "000002.png", "labels.txt"]
    read = np.stack([np.asarray(Image.open(folder / n)) for n in names[:3]])[..., None]
    assert_same(read, images[:3])
    assert (folder / "labels.txt").read_text().split() == ["3"] * 3
    capsys.readouterr()
    assert main([*base, "--num", "2", "--out", str(folder)]) == 2
    assert "holds 1 pictures that are not of these 2" in capsys.readouterr().err


def test_averages_and_raw_weights_are_different_models(workdir, model):
    raw = genjax.load(workdir, ema="raw")
    assert raw.ema == "raw"
    saved, averaged = flatten(raw.params), flatten(model.params)
    assert saved.keys() == averaged.keys()
    assert max(np.abs(saved[k] - averaged[k]).max() for k in saved) > 1e-3
    stored = Checkpoints(workdir).restore_params("narrow")[0]["model"]
    for k, value in flatten(genjax.load(workdir, ema="narrow").params).items():
        np.testing.assert_array_equal(value, flatten(stored)[k])
    with pytest.raises(UserError, match="no EMA 'fast'"):
        genjax.load(workdir, ema="fast")


def test_widths_are_reconstructed_after_training(workdir, tmp_path):
    # The last snapshot was taken at the end, so a width that was trained is found again.
    want = flatten(genjax.load(workdir, ema="wide").params)
    again = flatten(genjax.load(workdir, ema="posthoc:0.2").params)
    between = genjax.load(workdir, ema="posthoc:0.1")
    assert between.ema == "posthoc:0.1" and between.step == IMAGES // 8
    assert between.sample(num=2, steps=2).shape == (2, 8, 8, 1)
    for k, value in want.items():
        np.testing.assert_allclose(again[k], value, atol=1e-5)
    difference = [np.abs(flatten(between.params)[k] - want[k]).max() for k in want]
    assert max(difference) > 1e-3
    for width in ("x", "0.9", "-1"):
        with pytest.raises(UserError, match=f"posthoc:{width}.*write posthoc:WIDTH"):
            genjax.load(workdir, ema=f"posthoc:{width}")
    copy = str(tmp_path / "copy")
    shutil.copytree(workdir, copy)
    shutil.rmtree(f"{copy}/ema")
    with pytest.raises(UserError, match="no snapshots of power-function EMAs"):
        genjax.load(copy, ema="posthoc:0.1")


def test_denoise_is_the_formula_on_the_raw_network(model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 8, 1))  # float64 on purpose
    t, labels = np.array([0.1, 0.4, 0.7, 1.0]), [0, 3, 9, 10]
    found = model.denoise(x, t, labels)
    assert found.shape == x.shape and found.dtype == jnp.float32
    params = jax.device_get(model.params)
    x32, t32 = x.astype(np.float32), t.astype(np.float32)
    velocity = apply(model.task.model, {"params": params}, x32, 1000 * t32, labels)
    want = x32 - t32[:, None, None, None] * velocity  # x = (1 - t) x0 + t eps, v = eps - x0
    assert np.abs(velocity).max() > 0.1
    np.testing.assert_allclose(found, want, atol=2e-5)
    np.testing.assert_allclose(model.denoise(x[:1], 0.1, [0]), found[:1], atol=2e-5)
    np.testing.assert_allclose(model.denoise(x[3:], 1.0), found[3:], atol=2e-5)  # no label


def test_arguments_replace_the_config_s_sampler(model):
    sampler = model.task.sampler
    assert model.generator(4) is model.generator(4) is not model.generator(4, steps=4)
    kept = model.generator(4, solver="euler", guidance=3.0).task.sampler
    assert kept.solver == sampler.solver and kept.steps == sampler.steps
    assert kept.guidance.weight == 3.0 and sampler.guidance.weight == 1.5
    assert model.generator(4, solver="heun", steps=7).task.nfe == 13
    for wrong, words in (
        ({"num": 0}, "at least 1"),
        ({"num": 1, "labels": [11]}, "11 is out of range"),
        ({"num": 1, "steps": 0}, "steps"),
        ({"num": 1, "solver": "rk9"}, "'rk9' is no solver"),
    ):
        with pytest.raises(UserError, match=words):
            model.sample(**wrong)
    with pytest.raises(UserError, match="not conditioned on text"):
        model.generate("a red circle")


def test_a_path_without_a_model_is_one_line(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=r"no config\.json there"):
            genjax.load(str(path))


# --- public weights ---------------------------------------------------------------------------

META, GOLDEN = golden("dit")


def converted(tmp_path, format, **changes):
    """Returns a folder of `genjax convert` with the golden's network, and the loaded one."""
    config = {**META["config"], **changes}
    tensors = filled(dit.shapes(config))
    side = config["input_size"] // config["patch_size"]
    tensors["pos_embed"] = dit.module_of(config).positions(side, side)[None].copy()
    module, variables = genjax.weights.load(format, tensors, **config)
    folder = str(tmp_path / format)
    native.write_native(folder, module, variables, genjax.weights.facts(format, module, variables))
    return folder, module, variables


def test_weights_load_takes_the_golden_s_tensors_and_fields():
    tensors = filled({k: tuple(v) for k, v in META["shapes"].items() if k != "pos_embed"})
    module, variables = genjax.weights.load("facebook-dit", tensors, **META["config"])
    x = GOLDEN["x"].transpose(0, 2, 3, 1)  # numpy arrays as they are
    out = apply(module, variables, x, GOLDEN["t"], GOLDEN["y"])
    want = GOLDEN["out"].transpose(0, 2, 3, 1)
    assert np.abs(out - want).max() / np.abs(want).max() < 2e-5


def inputs(module, times):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(len(times), 8, 8, 4)).astype(np.float32)
    return x, np.asarray(times, np.float32), np.arange(len(times)) % module.num_classes


def test_converted_dit_is_sampled_as_its_authors_do(tmp_path):
    assert META["config"]["input_size"] == 8 and META["config"]["in_channels"] == 4
    folder, module, variables = converted(tmp_path, "facebook-dit")
    model = genjax.load(folder)
    assert (model.ema, model.step, model.task.nfe) == ("raw", None, 250)
    assert model.task.shape == (8, 8, 4) and model.task.model == module
    drawn = model.sample(num=3, labels=[1, 2, 3], steps=2, seed=1)
    assert drawn.shape == (3, 8, 8, 4) and drawn.dtype == np.uint8 and drawn.std() > 5

    x, t, labels = inputs(module, [1, 200, 800])
    eps = apply(module, variables, x, t - 1, labels)[..., :4]
    kept = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[t.astype(int) - 1][:, None, None, None]
    want = (x - np.sqrt(1 - kept) * eps) / np.sqrt(kept)
    found = model.denoise(x, t, labels)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_converted_sit_runs_its_time_backwards(tmp_path):
    folder, module, variables = converted(tmp_path, "sit")
    model = genjax.load(folder)
    assert model.task.nfe == 250 and model.task.precond.reverse
    assert model.sample(num=2, steps=3).shape == (2, 8, 8, 4)

    # Its x_s = s x0 + (1 - s) eps with s = 1 - t, and it predicts x0 - eps: x0 = x + t F(x, 1 - t).
    x, t, labels = inputs(module, [0.1, 0.5, 0.9])
    out = apply(module, variables, x, 1 - t, labels)
    assert out.shape == x.shape and np.abs(out).max() > 0.1
    np.testing.assert_allclose(
        model.denoise(x, t, labels), x + t[:, None, None, None] * out, atol=2e-5
    )


def test_converted_weights_without_a_null_label_are_sampled_unguided(tmp_path):
    folder, module, _ = converted(tmp_path, "sit", class_dropout_prob=0.0)
    assert not module.null_label
    model = genjax.load(folder)
    assert type(model.task.sampler.guidance).__name__ == "Unguided"
    for wrong, words in (
        ({"labels": [module.num_classes]}, "out of range"),
        ({"guidance": 2.0}, "classifier-free guidance"),
    ):
        with pytest.raises(UserError, match=words):
            model.sample(num=1, steps=2, **wrong)


def test_a_trained_model_goes_out_in_the_public_layout(workdir, model, tmp_path):
    out = str(tmp_path / "mine.safetensors")
    assert main(["convert", "--to", "facebook-dit", "--in", workdir, "--out", out]) == 0
    module, variables = genjax.weights.load("facebook-dit", out, num_heads=2)
    assert module == model.task.model
    for k, value in flatten(model.params).items():
        np.testing.assert_array_equal(flatten(variables["params"])[k], value)
