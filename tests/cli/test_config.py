import textwrap

import pytest

from genjax.cli import config as config_lib
from genjax.cli.workdir import changes
from genjax.core.errors import UserError


def resolve(overrides, config=None):
    seen = {}

    def expand(trial):
        seen.update(trial)
        kinds = {"lr": float, "name": str, "tag": str, "steps": int}
        for key, value in config_lib.flat(trial).items():
            kind = kinds.get(key.split(".")[-1])
            if kind and not isinstance(value, kind):
                raise UserError(f"config.{key}: expected {kind.__name__}, got {value!r}")
        return trial

    base = {"opt": {"name": "adam", "lr": 0.1, "b1": 0.9}, "tag": "x", "steps": 3}
    return config_lib.resolve(config or base, overrides, expand)


def test_values_are_literals_unless_the_key_wants_text():
    full = resolve([("opt.lr", "1e-3"), ("tag", "2"), ("steps", "7"), ("opt.b1", "null")])
    assert full["opt"] == {"name": "adam", "lr": 1e-3, "b1": None}
    assert full["tag"] == "2" and full["steps"] == 7
    assert resolve([("opt.name", "none")])["opt"] == {"name": "none"}  # a choice, not null


def test_another_name_drops_the_fields_of_the_former_choice_whatever_the_order():
    full = resolve([("opt.lr", "0.5"), ("opt.name", "lion")])
    assert full["opt"] == {"name": "lion", "lr": 0.5}


def test_a_wrong_type_names_the_key():
    with pytest.raises(UserError, match=r"config\.steps: expected int"):
        resolve([("steps", "many")])
    with pytest.raises(UserError, match=r"config\.tag: is a value, not a section"):
        resolve([("tag.inner", "1")])


def test_overrides_are_split_from_other_arguments():
    rest, overrides = config_lib.split_overrides(
        ["--config", "a.py", "--config.a.b=1", "--workdir", "w", "--config.c", "x=y"]
    )
    assert rest == ["--config", "a.py", "--workdir", "w"]
    assert overrides == [("a.b", "1"), ("c", "x=y")]
    with pytest.raises(UserError, match=r"--config\.c: a value is missing"):
        config_lib.split_overrides(["--config.c"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = 1", "a config defines get_config"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def get_config(arg='a'):\n    return {'a': 1, 'b': 2}[arg]", "KeyError: 'z'"),
        ("def get_config(:", "SyntaxError"),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, body, words):
    file = tmp_path / "c.py"
    file.write_text(textwrap.dedent(body))
    with pytest.raises(UserError, match=words):
        config_lib.read_file(f"{file}:z")


def test_a_missing_config_file_is_named():
    with pytest.raises(UserError, match=r"there is no file nowhere\.py"):
        config_lib.read_file("nowhere.py")


def test_what_may_change_on_a_workdir_and_what_may_not():
    old = {
        "seed": 0,
        "task": {"model": {"name": "dit", "width": 64, "remat": "none"}, "sampler": {"steps": 5}},
        "data": {"main": {"batch": 8, "threads": 0, "source": {"path": "/a"}}},
        "mesh": {"data": 1},
        "train": {"images": 100},
    }
    new = {
        "seed": 1,
        "task": {"model": {"name": "dit", "width": 32, "remat": "full"}, "sampler": {"steps": 9}},
        "data": {"main": {"batch": 16, "threads": 2, "source": {"path": "/b"}}},
        "mesh": {"data": 2},
        "train": {"images": 200},
    }
    refused, allowed = changes(old, new)
    assert refused == [
        "data.main.batch: 8 -> 16",
        "seed: 0 -> 1",
        "task.model.width: 64 -> 32",
    ]
    assert len(allowed) == 6
