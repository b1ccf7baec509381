"""From `--config FILE.py[:ARG] --config.a.b=VALUE ...` to a checked, fully expanded dict.

Plain `ml_collections` flags answer a wrong key with a traceback; here every mistake is one
`UserError` that names the key. The schema is `genjax.cli.schema.Run`.
"""

import argparse
import ast
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from genjax.core.errors import UserError

_WORDS = {"true": True, "false": False, "null": None, "none": None}


def must_have(args: argparse.Namespace, *flags: str) -> None:
    """Raises `UserError` naming the first of the flags that the command line does not give."""
    for flag in flags:
        if not getattr(args, flag):
            raise UserError(f"--{flag}: must be given (see genjax {args.argv[0]} --help)")


def read_file(spec: str) -> dict:
    """Returns what `get_config(ARG)` of the file `spec` = "FILE.py[:ARG]" gives, as plain dicts."""
    name, _, arg = spec.partition(":")
    path = Path(name).resolve()
    if not path.is_file():
        raise UserError(
            f"--config: there is no file {name}; give the path of a config such as "
            "configs/quickstart.py"
        )
    _make_base_importable(path)
    module_spec = importlib.util.spec_from_file_location(f"genjax_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--config: {name} is not a Python file (expected NAME.py)")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        get_config = module.get_config
    except UserError:
        raise
    except AttributeError as error:
        raise UserError(f"--config: {name}: {error}; a config defines get_config(arg)") from error
    except Exception as error:
        raise UserError(f"--config: {name}: {type(error).__name__}: {error}") from error
    try:
        config = get_config(arg) if arg else get_config()
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--config: {spec}: {type(error).__name__}: {error}") from error
    return plain(config)


def _make_base_importable(path: Path) -> None:
    """Lets a config import `configs.base`, from the tree it lies in or from this checkout."""
    checkout = Path(__file__).resolve().parents[2]
    for parent in (*path.parents, checkout):
        if (parent / "configs" / "base.py").is_file():
            if str(parent) not in sys.path:
                sys.path.insert(0, str(parent))
            return


def plain(value: Any) -> Any:
    """Returns ConfigDicts (any mapping) as dicts and lists as tuples, recursively."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(v) for v in value)
    return value


def split_overrides(argv: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the other arguments, and the overrides `--config.a.b=VALUE` as ("a.b", "VALUE")."""
    rest, overrides = [], []
    pending = None
    for arg in argv:
        if pending is not None:
            overrides.append((pending, arg))
            pending = None
        elif arg.startswith("--config."):
            key, equals, value = arg[len("--config.") :].partition("=")
            if equals:
                overrides.append((key, value))
            else:
                pending = key
        else:
            rest.append(arg)
    if pending is not None:
        raise UserError(f"--config.{pending}: a value is missing; write --config.{pending}=VALUE")
    return rest, overrides


def resolve(config: Mapping, overrides: Iterable[tuple[str, str]], expand) -> dict:
    """Returns `expand(config with overrides)`.

    A value is read as a Python literal (`true`, `false`, `null` too); where the key's type wants
    text, as it stands. Overrides of a `name` go first and drop the fields of the former choice.
    """
    ordered = sorted(overrides, key=lambda kv: (not kv[0].endswith(".name"), kv[0].count(".")))
    # A choice may be called none.
    values: list[tuple[str, Any]] = [
        (k, v if k.endswith(".name") else literal(v)) for k, v in ordered
    ]
    raw = dict(ordered)
    while True:
        trial = plain(config)
        for key, value in values:
            assign(trial, key, value)
        try:
            return expand(trial)
        except UserError as error:
            wrong = [
                k
                for k, v in values
                if str(error).startswith(f"config.{k}: expected") and v is not raw[k]
            ]
            if not wrong:
                raise
            values = [(k, raw[k] if k in wrong else v) for k, v in values]


def literal(text: str) -> Any:
    """Returns the Python value that `text` spells, or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def assign(config: dict, key: str, value: Any) -> None:
    """Sets the dotted `key` in nested dicts; another `name` drops the fields of the former choice.

    Raises `UserError` where a section of the key is a value.
    """
    node, parts = config, key.split(".")
    for i, part in enumerate(parts[:-1]):
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        elif not isinstance(child, dict):
            where = ".".join(parts[: i + 1])
            raise UserError(f"config.{where}: is a value, not a section; it has no key {parts[-1]}")
        node = child
    if parts[-1] == "name" and node.get("name", value) != value:
        node.clear()
    node[parts[-1]] = value


def flat(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dicts by dotted key."""
    out = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
