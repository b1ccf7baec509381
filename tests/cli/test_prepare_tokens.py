"""`genjax prepare tokens`: codes with labels and captions, in the order of the source."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.cli.main import main
from genjax.data import array_record, open_source
from tests.end_to_end.commands import ROOT

TRAIN = {
    "task.model.encoder_size.width": 16,
    "task.model.encoder_size.hidden": 32,
    "task.model.decoder_size.width": 16,
    "task.model.decoder_size.hidden": 32,
    "train.images": 64,
    "log.tensorboard": False,
    "heldout.every_images": 0,
    "samples.every_images": 64,
    "samples.num": 3,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "run"
    flags = [f"--config.{k}={v}" for k, v in TRAIN.items()]
    config = str(ROOT / "configs/vit_vqgan/digits.py")
    assert main(["train", "--config", config, "--workdir", str(folder), *flags]) == 0
    return str(folder)


def argv(workdir, out, *more):
    return ["prepare", "tokens", "--workdir", workdir, "--out", str(out), "--batch", "64", *more]


def test_codes_of_both_variants_with_labels(workdir, tmp_path):
    from genjax.checkpoint import Workdir
    from genjax.cli.schema import build_run, expand_run
    from genjax.cli.trained import read_params
    from genjax.cli.workdir import read_config

    out = tmp_path / "tokens"
    more = ("--source", "digits:test", "--flip", "--shards", "2")
    assert main(argv(workdir, out, *more)) == 0
    reader, source = array_record.Reader(str(out)), open_source("digits:test")
    reader.verify()
    assert len(reader) == 360 and set(reader[0]) == {"codes", "codes_flip", "label"}
    run = build_run(expand_run(read_config(Workdir(workdir))))
    params, step = read_params(workdir, run, "raw")
    rows = [0, 179, 180, 359]  # both sides of the border between the shards
    images = np.stack([source[i]["image"] for i in rows])
    for name, view in (("codes", images), ("codes_flip", images[:, :, ::-1])):
        want = run.task.encode(params, jnp.asarray(view))
        got = np.stack([reader[i][name] for i in rows])
        assert got.dtype == np.int32 and got.shape == (4, 16)
        np.testing.assert_array_equal(got, want)
    assert [int(reader[i]["label"]) for i in range(360)] == source.labels.tolist()
    about = reader.meta
    assert (about["kind"], about["codes"], about["grid"]) == ("tokens", 256, [4, 4])
    assert about["tokenizer"]["step"] == step == 1
    assert len(about["tokenizer"]["encoder_sha256"]) == 64


def test_captions_go_along(workdir, tmp_path):
    meta = {"levels": 17}
    with array_record.Writer(str(tmp_path / "in"), meta, 0, 1) as writer:
        for i in range(5):
            image = np.full((8, 8, 1), 3 * i, np.uint8)
            writer.write({"image": image, "caption": f"grey {i}"})
    array_record.finalise(str(tmp_path / "in"), 1, meta)
    source = f"array_record:{tmp_path / 'in'}"
    assert main(argv(workdir, tmp_path / "out", "--source", source)) == 0
    reader = array_record.Reader(str(tmp_path / "out"))
    assert [reader[i]["caption"] for i in range(5)] == [f"grey {i}" for i in range(5)]
    assert set(reader[0]) == {"codes", "caption"}


def test_the_grid_shows_data_beside_reconstructions(workdir):
    from pathlib import Path

    from PIL import Image

    (picture,) = Path(workdir, "samples").glob("*.png")
    assert Image.open(picture).size[0] > 2 * 48


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch", "12"), "--batch"),  # 8 devices
        (("--batch", "0"), "--batch"),
        (("--workdir", "nowhere"), "no config.json"),
        (("--source", "synthetic"), "grey levels"),
        (("--shards", "0"), "--shards"),
    ],
)
def test_wrong_requests_are_one_line(workdir, tmp_path, capsys, more, message):
    capsys.readouterr()
    assert main(argv(workdir, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("genjax: error: ") and error.count("\n") == 1 and message in error
