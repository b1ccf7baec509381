"""From pictures to tokens to pictures of prompts, by commands, far too small to be any good."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import genjax
from genjax.cli.main import main
from genjax.cli.prompts import draw
from genjax.cli.rerank import open_scorer
from genjax.core.errors import UserError
from tests.end_to_end.commands import ROOT

pytestmark = pytest.mark.slow
TOWER = {"depth": 1, "heads": 2, "width": 16, "hidden": 16}
PROMPTS = ["a red circle", "two blue squares above a green cross", "a cross"]


def flags(**overrides):
    shared = {"train.images": 32, "log.tensorboard": False, "data.main.batch": 16}
    changed = shared | {k.replace("__", "."): v for k, v in overrides.items()}
    return [f"--config.{key}={value}" for key, value in changed.items()]


def train(config, workdir, **overrides):
    argv = ["train", "--config", f"{ROOT}/configs/{config}", "--workdir", str(workdir)]
    assert main([*argv, *flags(**overrides)]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    towers = {
        f"model__{side}_size__{key}": value
        for side in ("encoder", "decoder")
        for key, value in TOWER.items()
    }
    shared = {"data__main__source__size": 48}
    train(
        "vit_vqgan/shapes.py",
        root / "tokenizer",
        **{f"task__{k}": v for k, v in towers.items()},
        **shared,
        heldout__every_images=0,
        samples__every_images=0,
    )
    text, tokens = root / "text", root / "tokens"
    argv = ["prepare", "captions", "--source", "shapes", "--most", "300"]
    assert main([*argv, "--out", str(text)]) == 0
    argv = ["prepare", "tokens", "--workdir", str(root / "tokenizer"), "--batch", "16"]
    assert main([*argv, "--out", str(tokens)]) == 0
    small = {"task__model__width": 16, "task__model__hidden": 16, "task__model__heads": 2}
    train(
        "parti/shapes.py",
        root / "parti",
        **small,
        **{f"task__codec__{k}": v for k, v in towers.items()},
        task__model__depth=1,
        task__model__encoder_depth=1,
        task__codec__path=root / "tokenizer",
        data__main__source__path=tokens,
        data__main__text__model=text,
        samples__every_images=32,
        samples__num=3,
    )
    train(
        "coca/shapes.py",
        root / "coca",
        **shared,
        **small,
        task__model__image_depth=1,
        task__model__text_depth=1,
        task__model__joint_depth=1,
        task__model__queries=2,
        data__main__text__model=text,
        heldout__num=16,
        heldout__batch=16,
        heldout__every_images=32,
    )
    return root


def test_training_draws_captions_and_notes_its_tokenizer(runs):
    grids = sorted(p.name for p in (runs / "parti/samples").iterdir())
    assert grids == ["000000000032_main.png", "000000000032_raw.png"]
    frozen = json.loads((runs / "parti/config.json").read_text())["frozen"]
    assert frozen["format"] == "workdir" and frozen["step"] == 2 and len(frozen["sha256"]) == 64
    lines = (runs / "coca/metrics.jsonl").read_text()
    assert "heldout/main/contrastive" in lines and "heldout/raw/accuracy" in lines


def test_the_best_candidate_is_kept_whatever_the_batch(runs):
    model, scorer = genjax.load(str(runs / "parti")), open_scorer(str(runs / "coca"))
    some = draw(model, PROMPTS, candidates=4, scorer=scorer, guidance=2.0, batch=8)
    assert some.images.shape == (3, 32, 32, 3) and some.scores.shape == (3, 4)
    np.testing.assert_array_equal(some.kept, some.scores.argmax(1))
    other = draw(model, PROMPTS, candidates=4, scorer=scorer, guidance=2.0, batch=16)
    np.testing.assert_array_equal(some.images, other.images)
    np.testing.assert_allclose(some.scores, other.scores, atol=1e-5)
    # The scores are those of the pictures that are kept, and not of others.
    again = scorer(some.images, PROMPTS)
    np.testing.assert_allclose(again, some.scores.max(1), atol=1e-5)
    one = model.generate(PROMPTS[0], candidates=4, rerank=str(runs / "coca"), guidance=2.0)
    np.testing.assert_array_equal(one, some.images[0])
    with pytest.raises(UserError, match="--rerank"):
        model.generate(PROMPTS[0], candidates=2)
    with pytest.raises(UserError, match="denoise"):
        model.denoise(np.zeros((1, 8, 8, 1)), 0.5)


def test_prompts_of_a_file_become_a_folder_with_a_page(runs, tmp_path, capsys):
    table = ["Prompt\tCategory\tChallenge\tNote", "a <red> circle\tArts & <Crafts>\tBasic\t"]
    table += ['a cross\tAnimals\tBasic\tsays "so"', "a square\tAnimals\tQuantity\t"]
    file = tmp_path / "prompts.tsv"
    file.write_text("\n".join(table))
    out = tmp_path / "out"
    argv = ["sample", "--workdir", str(runs / "parti"), "--prompts", str(file), "--out", str(out)]
    assert main([*argv, "--candidates", "2", "--rerank", str(runs / "coca")]) == 0
    assert "the best of 2" in capsys.readouterr().out
    page = (out / "index.html").read_text()
    assert re.findall(r"<h2[^>]*>([^<]*)", page) == ["Animals", "Arts &amp; &lt;Crafts&gt;"]
    named = re.findall(r'src="([^"]*)"', page)
    assert named == ["000001.png", "000002.png", "000000.png"]
    assert all(Image.open(out / name).size == (32, 32) for name in named)
    assert (out / "captions.txt").read_text().splitlines() == [
        "a <red> circle",
        "a cross",
        "a square",
    ]
    assert page.count("candidate") == 3 and "says &quot;so&quot;" in page


def test_the_checker_reads_samples_and_models(runs, tmp_path):
    file, report = tmp_path / "s.npz", tmp_path / "report.json"
    argv = ["sample", "--workdir", str(runs / "parti"), "--prompts", "shapes:heldout"]
    assert main([*argv, "--num", "4", "--out", str(file), "--guidance", "2"]) == 0
    with np.load(file) as found:
        assert found["arr_0"].shape == (4, 32, 32, 3) and len(found["captions"]) == 4
    shared = ["--reference", "shapes:heldout", "--metrics", "shapes", "--heldout", "none"]
    assert main(["eval", "--samples", str(file), *shared, "--json", str(report)]) == 0
    sampled = json.loads(report.read_text())
    argv = ["eval", "--workdir", str(runs / "parti"), "--num", "4", "--guidance", "2"]
    assert main([*argv, *shared, "--json", str(report)]) == 0
    drawn = json.loads(report.read_text())
    drawn, sampled = (r["metrics"]["shapes"] for r in (drawn, sampled))
    assert drawn["details"] == sampled["details"] and drawn["n"] == sampled["n"] == 4
    assert "4 captions" in drawn["protocol"] and "guidance 2" in drawn["protocol"]


def test_pictures_are_enlarged_by_a_network_of_their_own(runs, tmp_path):
    towers = {
        f"task__codec__model__{side}_size__{key}": value
        for side in ("encoder", "decoder")
        for key, value in TOWER.items()
    }
    train(
        "super_resolution/shapes.py",
        tmp_path / "enlarger",
        **towers,
        task__codec__path=runs / "tokenizer",
        task__model__blocks=1,
        task__model__width=4,
        data__main__source__size=32,
        samples__every_images=32,
        samples__num=2,
    )
    (grid,) = (tmp_path / "enlarger/samples").iterdir()
    assert Image.open(grid).size[0] >= 2 * 2 * 64
    argv = ["sample", "--workdir", str(runs / "parti"), "--prompts", "shapes", "--num", "2"]
    argv += ["--enlarge", str(tmp_path / "enlarger"), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    assert Image.open(tmp_path / "out/000001.png").size == (64, 64)


def test_another_decoder_may_be_named(runs, capsys, tmp_path):
    argv = ["sample", "--workdir", str(runs / "parti"), "--prompts", "shapes", "--num", "1"]
    argv += ["--out", str(tmp_path / "x.npz")]
    assert main([*argv, "--tokenizer", str(runs / "tokenizer")]) == 0
    assert main([*argv, "--tokenizer", str(runs / "coca")]) == 2
    assert "give a tokenizer's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--num"),
        (("--num", "2", "--rerank", "x"), "--rerank"),
        (("--prompts", "shapes", "--num", "1", "--candidates", "2"), "--candidates"),
        (("--prompts", "shapes", "--num", "1", "--labels", "1"), "--labels"),
        (("--prompts", "shapes", "--num", "1", "--rerank", "nowhere"), "--rerank"),
        (("--num", "2", "--steps", "3"), "--steps"),
    ],
)
def test_wrong_requests_are_one_line(runs, tmp_path, capsys, more, message):
    capsys.readouterr()
    argv = ["sample", "--workdir", str(runs / "parti"), "--out", str(tmp_path / "x.npz")]
    assert main([*argv, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("genjax: error: ") and error.count("\n") == 1 and message in error


def test_too_many_ids_for_the_table_are_refused(runs, tmp_path, capsys):
    argv = ["train", "--config", f"{ROOT}/configs/coca/shapes.py", "--workdir", str(tmp_path / "x")]
    more = flags(data__main__text__model=runs / "text", task__model__vocab=10)
    assert main([*argv, *more]) == 2
    assert "config.task.model.vocab" in capsys.readouterr().err
