"""Every key has a meaning and a reader; every flag of every command has its line of help."""

import argparse
import ast
import dataclasses
import importlib
import re

import pytest

from genjax.cli import schema
from genjax.cli.main import COMMANDS, main
from genjax.core.registry import Registry, fields_of
from genjax.parallel.rules import AXES
from tests.end_to_end.commands import ROOT


def sections(cls=schema.Run, found=None):
    """Returns all dataclasses that a config can reach."""
    found = {} if found is None else found
    if cls in found:
        return found
    found[cls] = None
    for field, hint in fields_of(cls).values():
        registry = field.metadata.get("registry")
        if isinstance(registry, Registry):
            for entry in registry.entries.values():
                sections(entry, found)
        elif (section := schema._section_of(hint)) is not None:
            sections(section, found)
        elif dataclasses.is_dataclass(hint):
            sections(hint, found)
    return found


def reads():
    """Returns the names of all attributes that the package reads."""
    names = set(AXES) | {f"dcn_{axis}" for axis in AXES}  # MeshSpec reads its fields by name
    for file in (ROOT / "genjax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
    return names


# Notes for people and reports; `genjax eval` reads them out of the config as a whole.
NOTES = (schema.Target,)


def test_no_key_is_without_a_reader():
    read, classes = reads(), sections()
    assert len(classes) > 60
    unread = [
        f"{cls.__name__}.{name}"
        for cls in classes
        if cls not in NOTES
        for name in fields_of(cls)
        if name not in read
    ]
    assert unread == []


def test_the_keys_of_a_run_are_read_where_they_belong():
    """The same, of the keys whose names are common: somebody reads them from that very section."""
    source = "".join(f.read_text() for f in (ROOT / "genjax").rglob("*.py"))
    owners = {
        "sampler": "SamplerSettings",
        "train": "TrainSettings",
        "checkpoint|keep": "CheckpointSettings",
        "log|settings": "LogSettings",
        "settings": "StreamSettings SampleSettings HeldoutSettings",
    }
    classes = {cls.__name__: cls for cls in sections()}
    for objects, names in owners.items():
        for name in names.split():
            for key in fields_of(classes[name]):
                pattern = rf"\b(?:{objects}|self)\.{key}\b"
                assert re.search(pattern, source), f"{name}.{key}"


def test_every_key_is_printed_with_its_meaning(capsys):
    assert main(["train", "--help-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.partition("  # ")[::2] for line in lines)
    assert [key for key, meaning in printed.items() if not meaning.strip()] == []
    keys = {key.partition(" = ")[0] for key in printed}
    for key in ("seed", "data.<name>.batch", "data.<name>.source.path", "task.sampler.steps",
                "task.model.heads", "optimizer.<name>.learning_rate", "ema.<name>.sigma_rel",
                "mesh.fsdp", "target.value", "init"):  # fmt: skip
        assert f"config.{key}" in keys
    last = {key.rpartition(".")[2] for key in keys}
    for cls in sections():
        assert set(fields_of(cls)) <= last, cls


def actions(parser):
    """Yields all flags of a parser and of its sub-commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions(inner)
        else:
            yield action


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_flag_with_its_meaning(command, capsys):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"genjax.cli.{command}").add_arguments(parser)
    listed = list(actions(parser))
    assert len(listed) > 2
    assert [a.dest for a in listed if not a.help] == []
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for action in parser._actions:
        assert all(option in text for option in action.option_strings)


def test_the_commands_are_listed(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out and meaning in out for name, meaning in COMMANDS.items())
