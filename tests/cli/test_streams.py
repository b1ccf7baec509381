import json
from types import SimpleNamespace

from genjax.checkpoint import Workdir
from genjax.cli import prepare_captions, streams
from genjax.cli.config import resolve
from genjax.core.registry import construct, expand
from genjax.data import StreamSettings, open_source, text


def test_the_first_batch_of_tokens_is_shown_with_its_captions(tmp_path):
    source = open_source("shapes")
    captions = list(prepare_captions.read(source, "shapes", 200))
    text.save(text.train(captions, 400), {}, str(tmp_path / "text"))
    flags = (("source.name", "shapes"), ("batch", "4"))
    flags += (("text.name", "sentencepiece"), ("text.model", str(tmp_path / "text")))
    full = resolve({}, flags, lambda c: expand(StreamSettings, c, "data.main"))
    settings = construct(StreamSettings, full)
    assert settings.text.length == 128
    task = SimpleNamespace(streams={"main": {"tokens": None}})
    run = SimpleNamespace(data={"main": settings}, task=task, seed=0)
    streams.first_batch(run, {"main": source}, Workdir(str(tmp_path / "run")))
    (file,) = (tmp_path / "run").rglob("report.json")
    report = json.loads(file.read_text())
    assert report["arrays"]["tokens"]["shape"] == [4, 128]
    shapes = ("circle", "square", "triangle", "cross")
    assert len(report["captions"]) == 4
    assert all(any(shape in c for shape in shapes) for c in report["captions"])
    assert streams.settings_of(run, "main").fields == (
        "tokens",
    )  # training itself reads no strings
