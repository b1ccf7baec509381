import argparse

import numpy as np
import pytest
from PIL import Image

from genjax.cli import prepare_dataset
from genjax.core.errors import UserError
from genjax.data import open_source
from genjax.data.array_record import Reader


def run(*flags):
    parser = argparse.ArgumentParser()
    prepare_dataset.add_arguments(parser)
    return prepare_dataset.run(parser.parse_args([str(f) for f in flags]))


def test_a_prepared_source_is_the_source_in_its_order(tmp_path):
    out = tmp_path / "digits"
    assert run("--source", "digits:test", "--out", out, "--shards", 3, "--processes", 1) == 0
    prepared, given = open_source(f"array_record:{out}"), open_source("digits:test")
    assert (len(prepared), prepared.levels, prepared.num_classes) == (360, 17, 10)
    assert prepared.class_names == given.class_names and prepared.split == "test"
    for i in (0, 119, 120, 359):
        assert np.array_equal(prepared[i]["image"], given[i]["image"])
        assert prepared[i]["label"] == given[i]["label"]
    with pytest.raises(UserError, match="already holds a finished"):
        run("--source", "digits:test", "--out", out)


def test_processes_and_parts_write_the_same_contents(tmp_path, capsys):
    flags = ("--source", "digits:test", "--shards", 4, "--size", 4, "--channels", 3)
    run(*flags, "--out", tmp_path / "one", "--processes", 1)
    run(*flags, "--out", tmp_path / "two", "--processes", 2)
    for part in ("0/2", "1/2"):
        run(*flags, "--out", tmp_path / "parts", "--processes", 1, "--part", part)
        with pytest.raises(UserError, match=r"index\.json"):
            Reader(str(tmp_path / "parts"))
    capsys.readouterr()
    run(*flags, "--out", tmp_path / "parts", "--processes", 1)
    assert "4 finished shards are kept" in capsys.readouterr().out
    readers = [Reader(str(tmp_path / name)) for name in ("one", "two", "parts")]
    assert len({r.sha256 for r in readers}) == 1
    assert readers[0][0]["image"].shape == (4, 4, 3)
    readers[1].verify()


def test_pictures_are_cropped_and_damaged_ones_left_out_and_named(tmp_path, capsys):
    for i in range(4):
        folder = tmp_path / "in" / ("cat" if i % 2 else "ant")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + i, 12), (i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    (tmp_path / "in" / "cat" / "1.png").write_bytes(b"broken")
    run("--source", f"image_folder:{tmp_path / 'in'}", "--out", tmp_path / "out", "--size", 6)
    assert "1 elements cannot be decoded and are left out: cat/1.png" in capsys.readouterr().out
    prepared = open_source(f"array_record:{tmp_path / 'out'}")
    assert len(prepared) == 3 and prepared.class_names == ("ant", "cat")
    assert prepared[2]["caption"] == "picture 3" and prepared[2]["label"] == 1
    assert prepared[2]["image"].shape == (6, 6, 3) and prepared[2]["image"][0, 0, 0] == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--source", "digits"), "--out"),
        (("--source", "digits", "--out", "OUT", "--size", "0"), "--size"),
        (("--source", "digits", "--out", "OUT", "--shards", "0"), "--shards"),
        (("--source", "digits", "--out", "OUT", "--shards", "2000"), "--shards"),
        (("--source", "digits", "--out", "OUT", "--processes", "0"), "--processes"),
        (("--source", "digits", "--out", "OUT", "--part", "2/2"), "--part"),
        (("--source", "digits", "--out", "OUT", "--part", "x"), "--part"),
        (("--source", "digits", "--out", "OUT", "--download"), "--download"),
        (("--source", "digits", "--out", "OUT", "--data-dir", "x"), "--data-dir"),
        (("--source", "didgets", "--out", "OUT"), "no source"),
        (("--source", "image_folder:/nowhere", "--out", "OUT"), "no such folder"),
        (("--source", "digits", "--out", "/proc/none/x"), "cannot create"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, flags, words):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=words):
        run(*[str(out) if f == "OUT" else f for f in flags])
    assert not out.exists() or not list(out.iterdir())
