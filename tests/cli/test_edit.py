"""`genjax edit` on a tiny digits model: every operation, its files, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from genjax.cli.main import main
from tests.end_to_end.commands import ROOT, TINY, flags, genjax

# Twelve fast steps: after them a DiT no longer ignores its labels.
SMALL = {
    "train.images": 8 * 12,
    "checkpoint.every_images": 0,
    "optimizer.model.learning_rate": 2e-2,
}
CLASSIFIER = {
    "task.model.depth": 10,
    "task.model.widen": 1,
    "data.main.batch": 8,
    "train.images": 8,
    "log.tensorboard": False,
    "heldout.every_images": 0,
    "checkpoint.every_images": 0,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of a diffusion model and of a classifier of noisy images."""
    root = tmp_path_factory.mktemp("edit")
    for name, file, changed in (
        ("model", "quickstart", TINY | SMALL),
        ("noisy", "classifier/digits_noisy", CLASSIFIER),
    ):
        config = str(ROOT / "configs" / f"{file}.py")
        assert (
            main(["train", "--config", config, "--workdir", str(root / name), *flags(changed)]) == 0
        )
    return root


def edit(runs, operation, out, *more):
    base = ["edit", "--workdir", str(runs / "model"), "--operation", operation, "--out", str(out)]
    return main([*base, *map(str, more)])


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def images(path, n=4, shape=(8, 8, 1), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)
    np.savez(path, arr_0=pixels)
    return pixels


def test_inpaint_keeps_what_is_known(runs, tmp_path, capsys):
    out = tmp_path / "e.npz"
    given = ["--images", "digits:test", "--num", 12, "--mask", "left"]
    assert edit(runs, "inpaint", out, *given) == 0
    assert "3 evaluations each" in capsys.readouterr().out
    result = read(out)
    assert sorted(result) == ["arr_0", "arr_1", "labels"]
    assert result["arr_0"].shape == (12, 8, 8, 1) and result["arr_0"].dtype == np.uint8
    from genjax.cli.eval_inputs import open_data

    digits = open_data("digits:test", (8, 8, 1), None).take(np.arange(12))
    pixels = digits.read(np.arange(12))
    assert np.array_equal(result["arr_0"][:, :, :4], pixels[:, :, :4])
    assert not np.array_equal(result["arr_0"][:, :, 4:], pixels[:, :, 4:])
    assert np.array_equal(result["labels"], digits.labels)
    picture = Image.open(tmp_path / "e.png")
    assert picture.width > 12 * 48 and picture.height > 3 * 48
    # Another batch, masks from files, another seed.
    again = tmp_path / "again.npz"
    assert edit(runs, "inpaint", again, *given, "--batch", 5) == 0
    difference = np.abs(read(again)["arr_0"].astype(int) - result["arr_0"])
    assert difference.max() <= 1 and np.mean(difference == 0) >= 0.999
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.savez(tmp_path / "mask.npz", mask=mask > 0)
    for name in ("mask.png", "mask.npz"):
        assert edit(runs, "inpaint", again, *given[:-1], tmp_path / name) == 0
        assert np.array_equal(read(again)["arr_0"], result["arr_0"])
    assert edit(runs, "inpaint", again, *given, "--seed", 1) == 0
    assert not np.array_equal(read(again)["arr_0"], result["arr_0"])


def test_labels_guidance_solver_and_legacy(runs, tmp_path):
    pixels = images(tmp_path / "x.npz")
    given = ["--images", tmp_path / "x.npz", "--mask", "center", "--solver", "pc", "--steps", 2]
    found = []
    for more in ([], ["--labels", "3"], ["--labels", "3", "--guidance", 3], ["--legacy"]):
        assert edit(runs, "inpaint", tmp_path / "e.npz", *given, *more) == 0
        result = read(tmp_path / "e.npz")
        assert result["arr_0"].shape == (4, 8, 8, 1)
        assert ("labels" in result) == ("--labels" in more)
        same = result["arr_0"][:, 2:6, 2:6] == pixels[:, 2:6, 2:6]
        # The published code leaves the known pixels as they are at the last step's first time.
        assert same.all() == ("--legacy" not in more)
        found.append(result["arr_0"].tobytes())
    assert len(set(found)) == 4


def test_super_resolution_and_a_matrix(runs, tmp_path):
    pixels = images(tmp_path / "x.npz")
    means = pixels.reshape(4, 4, 2, 4, 2, 1).mean((2, 4))
    out = tmp_path / "folder"
    assert edit(runs, "super-resolve", out, "--images", tmp_path / "x.npz", "--ema", "raw") == 0
    written = np.stack([np.asarray(Image.open(out / f"{i:06d}.png")) for i in range(4)])
    assert written.shape == (4, 8, 8) and (tmp_path / "folder.png").exists()
    # Small images are given as they are.
    small = np.round(means).astype(np.uint8)
    np.savez(tmp_path / "small.npz", arr_0=small)
    assert edit(runs, "super-resolve", tmp_path / "e.npz", "--images", tmp_path / "small.npz") == 0
    # A matrix of two pixels is inpainting with two of them known.
    matrix = np.zeros((3, 64))
    matrix[0, 9], matrix[1, 20], matrix[2, 9] = 2.0, -1.0, 1.0
    np.savez(tmp_path / "a.npz", matrix)
    given = ["--images", tmp_path / "x.npz", "--operator", tmp_path / "a.npz"]
    assert edit(runs, "linear", tmp_path / "l.npz", *given) == 0
    away = read(tmp_path / "l.npz")["arr_0"].reshape(4, 64)[:, [9, 20]].astype(int)
    assert np.abs(away - pixels.reshape(4, 64)[:, [9, 20]]).max() <= 1


@pytest.mark.slow
def test_classes(runs, tmp_path):
    given = ["--classifier", runs / "noisy", "--labels", "3,1", "--num", 4]
    found = []
    for weight in (0, 50):
        assert edit(runs, "class", tmp_path / "c.npz", *given, "--guidance", weight) == 0
        result = read(tmp_path / "c.npz")
        assert result["labels"].tolist() == [3, 1, 3, 1]
        found.append(result["arr_0"])
    assert not np.array_equal(found[0], found[1])
    sample = ["sample", "--workdir", str(runs / "model"), "--num", "4", "--labels", "10"]
    assert main([*sample, "--guidance", "1", "--out", str(tmp_path / "s.npz")]) == 0
    assert np.array_equal(read(tmp_path / "s.npz")["arr_0"], found[0])  # weight 0 is no guidance


@pytest.mark.slow
def test_latents(runs, tmp_path, capsys):
    # Twelve steps leave a stiff network: 1e-5 comes back within 0.005, 1e-6 within 0.0004.
    base = ["--images", "digits:test", "--num", 4, "--tolerance", 1e-6]
    assert edit(runs, "encode", tmp_path / "z.npz", *base) == 0
    result = read(tmp_path / "z.npz")
    assert result["latents"].shape == (4, 8, 8, 1) and result["latents"].dtype == np.float32
    assert "decoded within 0 of 255" in capsys.readouterr().out
    assert edit(runs, "interpolate", tmp_path / "i.npz", *base, "--frames", 3) == 0
    frames = read(tmp_path / "i.npz")["arr_0"].reshape(2, 3, 8, 8, 1)
    assert np.array_equal(frames[:, [0, 2]].reshape(4, 8, 8, 1), result["arr_0"])


@pytest.mark.slow
def test_eight_devices_agree_with_one(runs, tmp_path):
    """The fixture's devices are eight; a process of its own has one."""
    given = ["--images", "digits:test", "--num", 6, "--mask", "top"]
    assert edit(runs, "inpaint", tmp_path / "8.npz", *given) == 0
    command = ["edit", "--workdir", runs / "model", "--operation", "inpaint"]
    done = genjax(*command, *given, "--out", tmp_path / "1.npz")
    assert done.returncode == 0, done.stderr
    difference = np.abs(
        read(tmp_path / "8.npz")["arr_0"].astype(int) - read(tmp_path / "1.npz")["arr_0"]
    )
    assert difference.max() <= 1 and np.mean(difference == 0) >= 0.999


def wrong_shape(runs, tmp):
    images(tmp / "x.npz", shape=(9, 8, 1))
    return ["inpaint", "--images", tmp / "x.npz", "--mask", "left"]


def wrong_mask(runs, tmp):
    np.savez(tmp / "m.npz", np.ones((4, 4)))
    return ["inpaint", "--images", "digits:test", "--mask", tmp / "m.npz"]


def wrong_operator(runs, tmp):
    np.savez(tmp / "a.npz", np.ones((2, 63)))
    return ["linear", "--images", "digits:test", "--operator", tmp / "a.npz"]


def two_arrays(runs, tmp):
    np.savez(tmp / "a.npz", x=np.ones(2), y=np.ones(2))
    return ["linear", "--images", "digits:test", "--operator", tmp / "a.npz"]


DIGITS = ("--images", "digits:test", "--num", "2")
CASES = {
    "unknown operation": (lambda r, t: ["erase"], "'erase' is unknown"),
    "no images": (lambda r, t: ["inpaint", "--mask", "left"], "--images"),
    "images that are not there": (
        lambda r, t: ["inpaint", "--mask", "left", "--images", t / "no.npz"],
        "no.npz",
    ),
    "no data set": (lambda r, t: ["inpaint", "--mask", "left", "--images", "birds"], "birds"),
    "images of another shape": (wrong_shape, "are [9, 8, 1], but the model draws [8, 8, 1]"),
    "too many": (
        lambda r, t: ["inpaint", "--mask", "left", "--images", "digits:test", "--num", "5000"],
        "holds 360 images",
    ),
    "no mask": (lambda r, t: ["inpaint", *DIGITS], "--mask"),
    "mask of another shape": (wrong_mask, "--mask: is [4, 4]"),
    "unknown mask": (lambda r, t: ["inpaint", *DIGITS, "--mask", "up"], "'up'"),
    "a flag of another operation": (
        lambda r, t: ["inpaint", *DIGITS, "--mask", "left", "--factor", "2"],
        "--factor: the operation inpaint does not read it; it is for super-resolve",
    ),
    "factor": (lambda r, t: ["super-resolve", *DIGITS, "--factor", "3"], "--factor: 3"),
    "colours of a grey model": (lambda r, t: ["colorize", *DIGITS], "RGB"),
    "no operator": (lambda r, t: ["linear", *DIGITS], "--operator"),
    "operator of another shape": (wrong_operator, "a matrix [m, 64]"),
    "two arrays": (two_arrays, "holds ['x', 'y']"),
    "no classifier": (lambda r, t: ["class", "--labels", "1"], "--classifier"),
    "classifier that is not there": (
        lambda r, t: ["class", "--classifier", t / "no"],
        "--classifier",
    ),
    "no classifier at all": (
        lambda r, t: ["class", "--classifier", r / "model"],
        "holds no classifier",
    ),
    "label out of range": (
        lambda r, t: ["class", "--classifier", r / "noisy", "--labels", "10"],
        "10 is out of range",
    ),
    "label of the network out of range": (
        lambda r, t: ["inpaint", *DIGITS, "--mask", "left", "--labels", "11"],
        "11 is out of range",
    ),
    "no numbers": (
        lambda r, t: ["inpaint", *DIGITS, "--mask", "left", "--labels", "a"],
        "--labels: 'a'",
    ),
    "guidance without labels": (
        lambda r, t: ["inpaint", *DIGITS, "--mask", "left", "--guidance", "2"],
        "needs --labels",
    ),
    "adaptive solver": (
        lambda r, t: ["inpaint", *DIGITS, "--mask", "left", "--solver", "rk45"],
        "adaptive",
    ),
    "odd number": (
        lambda r, t: ["interpolate", "--images", "digits:test", "--num", "3"],
        "no pairs",
    ),
    "tolerance": (lambda r, t: ["encode", *DIGITS, "--tolerance", "0"], "--tolerance"),
    "frames": (lambda r, t: ["interpolate", *DIGITS, "--frames", "1"], "--frames"),
    "num": (lambda r, t: ["encode", "--images", "digits:test", "--num", "0"], "--num"),
    "no workdir": (lambda r, t: ["colorize", *DIGITS, "--workdir", t / "no"], "no config.json"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(name, runs, tmp_path, capsys):
    make, words = CASES[name]
    argv = make(runs, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code = edit(runs, argv[0], tmp_path / "out.npz", *argv[1:])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("genjax: error: "), lines
    assert words in lines[0], lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_latents_need_an_npz(runs, tmp_path, capsys):
    assert edit(runs, "encode", tmp_path / "folder", *DIGITS) == 2
    assert "FILE.npz" in capsys.readouterr().err
