"""Wrong input of every kind: exit code 2, one line that names it, and nothing written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genjax.cli.main import main
from tests.end_to_end.commands import ROOT, TINY, flags

CONFIG = str(ROOT / "configs" / "quickstart.py")


def train(workdir, *more, config=CONFIG, **overrides):
    changed = {k.replace("__", "."): v for k, v in overrides.items()}
    return ["train", "--config", config, "--workdir", str(workdir), *flags(TINY | changed), *more]


def folder_of_images(root: Path) -> Path:
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((8, 8, 3), 40 * i, np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root


def folder_source(path, **more):
    return {
        "data__main__source__name": "image_folder",
        "data__main__source__path": path,
        "task__levels": 256,
        "task__image": "(8,8,3)",
        **more,
    }


def empty_folder(tmp):
    (tmp / "empty").mkdir()
    return train(tmp / "run", **folder_source(tmp / "empty"))


def all_truncated(tmp):
    root = folder_of_images(tmp / "images")
    for file in root.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:40])
    return train(tmp / "run", **folder_source(root))


def label_out_of_range(tmp):
    root = folder_of_images(tmp / "images")
    return train(tmp / "run", **folder_source(root, task__model__num_classes=1))


def mixed_sizes(tmp):
    root = folder_of_images(tmp / "images")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(root / "cat" / "odd.png")
    return train(tmp / "run", **folder_source(root, task__image="(16,16,3)"))


def file_instead_of_workdir(tmp):
    (tmp / "run").write_text("")
    return train(tmp / "run")


def pickle_as_weights(tmp):
    import pickle

    (tmp / "model.pt").write_bytes(pickle.dumps({"a": 1}))
    return train(tmp / "run", **{"init__model": f"facebook-dit:{tmp / 'model.pt'}"})


def not_safetensors(tmp):
    (tmp / "model.safetensors").write_bytes(b"nonsense")
    return train(tmp / "run", **{"init__model": f"facebook-dit:{tmp / 'model.safetensors'}"})


def wrong_shaped_weights(tmp):
    from safetensors.numpy import save_file

    save_file({"x_embedder.proj.weight": np.zeros((3,), np.float32)}, tmp / "m.safetensors")
    return [
        "convert", "--from", "facebook-dit", "--in", str(tmp / "m.safetensors"),
        "--out", str(tmp / "out"),
    ]  # fmt: skip


def samples_without_key(tmp):
    np.savez(tmp / "s.npz", images=np.zeros((4, 8, 8, 1), np.uint8))
    return ["eval", "--samples", str(tmp / "s.npz"), "--reference", "digits", "--metrics", "fid"]


def samples_of_pickles(tmp):
    np.savez(tmp / "s.npz", arr_0=np.array([{"a": 1}], dtype=object))
    return ["eval", "--samples", str(tmp / "s.npz"), "--reference", "digits", "--metrics", "fid"]


def workdir_without_checkpoint(tmp):
    (tmp / "run").mkdir()
    return ["sample", "--workdir", str(tmp / "run"), "--num", "4", "--out", str(tmp / "s.npz")]


def broken_config_json(tmp):
    (tmp / "run").mkdir()
    (tmp / "run" / "config.json").write_text("{")
    return ["sample", "--workdir", str(tmp / "run"), "--num", "4", "--out", str(tmp / "s.npz")]


def unfinished_array_record(tmp):
    (tmp / "records").mkdir()
    return train(
        tmp / "run",
        data__main__source__name="array_record",
        data__main__source__path=tmp / "records",
    )


def wrong_idx_file(tmp):
    (tmp / "fashion").mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp / "fashion" / name).write_bytes(b"\0\0\0\0rubbish")
    return train(
        tmp / "run",
        data__main__source__name="fashion_mnist",
        data__main__source__path=tmp / "fashion",
    )


# Name of the case -> (arguments for a temporary folder, words of the line)
CASES = {
    "no such command": (lambda t: ["trian"], "'trian' is no command"),
    "unknown flag": (lambda t: train(t / "run", "--wrokdir=x"), "--wrokdir"),
    "no config": (lambda t: ["train", "--workdir", str(t / "r")], "--config: must be given"),
    "no workdir": (lambda t: ["train", "--config", CONFIG], "--workdir: must be given"),
    "missing config": (lambda t: train(t / "r", config="no.py"), "there is no file no.py"),
    "config argument": (
        lambda t: train(t / "r", config=str(ROOT / "configs/dit/imagenet256.py") + ":M/3"),
        "'M/3' is no size",
    ),
    "unknown key": (lambda t: train(t / "r", trian__images=3), "config.trian: unknown key"),
    "unknown inner key": (
        lambda t: train(t / "r", task__model__widht=3),
        "config.task.model.widht: unknown key",
    ),
    "wrong type": (
        lambda t: train(t / "r", data__main__batch="many"),
        "config.data.main.batch: expected int",
    ),
    "field of another choice": (
        lambda t: train(t / "r", optimizer__model__name="lion", optimizer__model__eps=1e-3),
        "config.optimizer.model.eps: unknown key",
    ),
    "unknown choice": (
        lambda t: train(t / "r", task__process__name="flaw"),
        "'flaw' is no process; choose one of",
    ),
    "value out of range": (lambda t: train(t / "r", ema__main__decay=1.5), "config.ema.main"),
    "heads do not divide": (
        lambda t: train(t / "r", task__model__heads=5),
        "5 heads do not divide width 32",
    ),
    "patch does not divide": (lambda t: train(t / "r", task__model__patch=3), "patch"),
    "precond without meaning": (
        lambda t: train(t / "r", task__precond__name="consistency"),
        "consistency is defined for",
    ),
    "hybrid loss on a flow": (
        lambda t: train(t / "r", task__objective__name="hybrid"),
        "hybrid needs process.name",
    ),
    "grid of a table on a flow": (
        lambda t: train(t / "r", task__sampler__grid__name="respaced", samples__every_images=8),
        "counts the steps of a table",
    ),
    "levels of the data": (lambda t: train(t / "r", task__levels=256), "config.task.levels"),
    "shape of the data": (lambda t: train(t / "r", task__image="(16,16,1)"), "config.data.main"),
    "missing folder": (
        lambda t: train(t / "r", **folder_source(t / "nowhere")),
        "nowhere",
    ),
    "empty folder": (empty_folder, "empty"),
    "all images truncated": (all_truncated, "corrupt"),
    "too few classes": (label_out_of_range, "config.task.model.num_classes"),
    "mixed sizes": (mixed_sizes, "config.data.main"),
    "unfinished records": (unfinished_array_record, "records"),
    "wrong magic": (wrong_idx_file, "fashion"),
    "indivisible batch": (
        lambda t: train(t / "r", data__main__batch=9),
        "config.data.main.batch=9",
    ),
    "indivisible accumulation": (
        lambda t: train(t / "r", train__accumulate=3, mesh__data=1, mesh__tensor=-1),
        "micro-batches",
    ),
    "mesh too large": (lambda t: train(t / "r", mesh__fsdp=3), "mesh"),
    "workdir is a file": (file_instead_of_workdir, "run"),
    "unknown store": (lambda t: train("nosuch://bucket/run"), "nosuch"),
    "pickle as weights": (pickle_as_weights, "model.pt"),
    "nonsense as weights": (not_safetensors, "model.safetensors"),
    "wrong-shaped weights": (wrong_shaped_weights, "x_embedder.proj.weight"),
    "no weights there": (
        lambda t: train(t / "r", init__model=str(t / "nothing")),
        "config.init.model",
    ),
    "init of an unknown network": (
        lambda t: train(t / "r", init__generator="x"),
        "config.init.generator: no such network",
    ),
    "W&B not installed": (lambda t: train(t / "r", log__wandb="project"), "wandb"),
    "not a workdir": (workdir_without_checkpoint, "run"),
    "broken config.json": (broken_config_json, "config.json"),
    "no samples asked": (
        lambda t: ["sample", "--workdir", str(t), "--num", "0", "--out", str(t / "s.npz")],
        "--num",
    ),
    "samples into a text file": (
        lambda t: ["sample", "--workdir", str(t), "--num", "1", "--out", str(t / "s.txt")],
        "--out",
    ),
    "samples under the wrong key": (samples_without_key, "arr_0"),
    "samples as pickles": (samples_of_pickles, "s.npz"),
    "missing samples": (
        lambda t: [
            "eval", "--samples", str(t / "no.npz"), "--reference", "digits", "--metrics", "fid",
        ],
        "no.npz",
    ),
    "unknown format": (
        lambda t: ["convert", "--from", "onnx", "--in", "a", "--out", str(t / "o")],
        "onnx",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    make, words = CASES[name]
    argv = make(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code = main(argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("genjax: error: "), lines
    assert words in lines[0], lines[0]
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert before == after


def test_another_model_on_the_same_workdir_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    one = {"train__images": 8, "mesh__data": 1, "mesh__tensor": -1, "task__model__heads": 8}
    assert main(train(tmp_path / "run", **one)) == 0
    capsys.readouterr()
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert main(train(tmp_path / "run", **one | {"task__model__width": 64, "seed": 1})) == 2
    line = capsys.readouterr().err.strip()
    assert "this workdir holds another run" in line
    assert "seed: 0 -> 1" in line and "task.model.width: 32 -> 64" in line
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == saved
    for argv, words in (
        (["--labels", "3,11"], "11 is out of range"),
        (["--labels", "a"], "--labels: 'a'"),
        (["--num", "0"], "at least 1"),
        (["--steps", "0"], "--steps"),
        (["--solver", "rk9"], "'rk9' is no solver"),
        (["--ema", "fast"], "no EMA 'fast'"),
    ):
        base = ["sample", "--workdir", str(tmp_path / "run"), "--num", "2"]
        assert main([*base, "--out", str(tmp_path / "s.npz"), *argv]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "s.npz").exists()
