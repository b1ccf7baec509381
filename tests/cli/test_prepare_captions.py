import json

import pytest

from genjax.cli.main import main
from genjax.data.text import SentencePiece


def test_a_model_of_a_sources_captions(tmp_path, capsys):
    flags = ["prepare", "captions", "--source", "shapes", "--most", "800"]
    assert main([*flags, "--out", str(tmp_path / "a")]) == 0
    assert "800 captions" in capsys.readouterr().out
    report = json.loads((tmp_path / "a" / "text.json").read_text())
    tokenizer = SentencePiece(str(tmp_path / "a"), 32).open()
    assert report["vocab"] == tokenizer.size < report["vocab_asked"] == 16000
    assert report["tokens"]["share_cut_at_128"] == 0 and 3 < report["tokens"]["mean"] < 20
    assert main([*flags, "--out", str(tmp_path / "b")]) == 0
    again = json.loads((tmp_path / "b" / "text.json").read_text())
    assert again == report
    assert main([*flags, "--out", str(tmp_path / "a")]) == 2
    assert "already holds a text model" in capsys.readouterr().err


def test_a_model_of_a_configs_source(tmp_path):
    config = tmp_path / "c.py"
    config.write_text(
        "def get_config(arg=''):\n"
        "    return {'data': {'main': {'source': {'name': 'captioned'}}}}\n"
    )
    out = tmp_path / "text"
    given = ["--config", str(config), "--config.data.main.source.source=digits:test"]
    assert main(["prepare", "captions", *given, "--out", str(out)]) == 0
    assert json.loads((out / "text.json").read_text())["captions"] == 360
    assert len(SentencePiece(str(out)).open().ids("seven")) == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--source", "digits"], "has no caption"),
        (["--source", "shapes", "--vocab", "100"], "--vocab"),
        (["--source", "shapes", "--most", "0"], "--most"),
        ([], "give either --source or --config"),
    ],
)
def test_bad_requests_are_one_line(flags, message, tmp_path, capsys):
    assert main(["prepare", "captions", *flags, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
