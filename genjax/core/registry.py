"""Configuration as dataclasses: a choice is `{"name": ..., fields...}`, its legal fields are those
of the dataclass registered under that name.

`Registry.expand` checks a choice (unknown name, unknown field, wrong type: one `UserError` that
names the key) and fills in every default; `Registry.build` constructs it, nested choices first.
Every room keeps its own registry as an explicit table; nothing registers itself on import.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from genjax.core.errors import UserError

_MODULE_FIELDS = ("parent", "name")  # every Flax module has these; no config sets them


def option(default, doc: str, **metadata) -> Any:
    """Declares a dataclass field with its line of meaning."""
    metadata["doc"] = doc
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(doc: str, **metadata) -> Any:
    """Declares a dataclass field that a config must give."""
    return dataclasses.field(metadata=metadata | {"doc": doc})


def choice(registry: "Registry", default: Mapping | None, doc: str) -> Any:
    """Declares a field that holds one choice of `registry` (None: optional)."""
    return option(default, doc, registry=registry)


def choices(registry: "Registry", default: Mapping, doc: str) -> Any:
    """Declares a field that holds a dict of named choices of `registry`."""
    return option(default, doc, registry=registry, many=True)


class Registry:
    """The named constructors (dataclasses, Flax modules) of one axis of configuration."""

    def __init__(
        self,
        axis: str,
        entries: Mapping[str, type],
        variants: Mapping[str, Mapping[str, Mapping]] | None = None,
    ):
        """`variants`: entry name -> variant name -> fields, the published sizes of a network."""
        self.axis = axis
        self.entries = dict(entries)
        self.variants = {k: dict(v) for k, v in (variants or {}).items()}

    def _entry(self, value, path: str) -> type:
        name = value.get("name") if isinstance(value, Mapping) else None
        if name not in self.entries:
            raise UserError(
                f"{path}.name: {name!r} is no {self.axis}; choose one of {sorted(self.entries)}"
            )
        return self.entries[name]

    def expand(self, value: Mapping, path: str) -> dict:
        """Returns the choice with every legal field, checked; raises `UserError` naming `path`."""
        cls = self._entry(value, path)
        name, given = value["name"], {k: v for k, v in value.items() if k not in ("name",)}
        head: dict[str, Any] = {"name": name}
        if name in self.variants:
            variant = given.pop("variant", None)
            if variant is not None:
                if variant not in self.variants[name]:
                    raise UserError(
                        f"{path}.variant: {variant!r} is unknown; "
                        f"choose one of {list(self.variants[name])}"
                    )
                head["variant"] = variant
                given = dict(self.variants[name][variant]) | given
        return head | expand(cls, given, path)

    def build(self, value: Mapping, path: str = "config") -> Any:
        """Returns the constructed choice; expands it first, so a partial choice will do."""
        full = self.expand(value, path)
        head = ("name", "variant") if value["name"] in self.variants else ("name",)
        fields = {k: v for k, v in full.items() if k not in head}
        return construct(self._entry(value, path), fields, path)


def fields_of(cls: type) -> dict[str, tuple[dataclasses.Field, Any]]:
    """Returns name -> (field, type) of what a config may set in `cls`."""
    hints = typing.get_type_hints(cls)
    module = "parent" in {f.name for f in dataclasses.fields(cls)}
    return {
        f.name: (f, hints[f.name])
        for f in dataclasses.fields(cls)
        if f.init and not (module and f.name in _MODULE_FIELDS)
    }


def expand(cls: type, given: Mapping, path: str) -> dict:
    """Returns `given` with every field of `cls`, checked against its types."""
    legal = fields_of(cls)
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: expected a section of keys, got {given!r}")
    for key in given:
        if key not in legal:
            raise UserError(f"{path}.{key}: unknown key; known here: {', '.join(sorted(legal))}")
    out = {}
    for key, (field, hint) in legal.items():
        where = f"{path}.{key}"
        if key in given:
            value = given[key]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise UserError(f"{where}: this key must be given ({field.metadata.get('doc', '')})")
        out[key] = _expand_value(field, hint, value, where)
    return out


def _expand_value(field: dataclasses.Field, hint: Any, value: Any, path: str) -> Any:
    registry = field.metadata.get("registry")
    if registry is not None and value is not None:
        if field.metadata.get("many"):
            named = check(dict, value, path)
            return {k: registry.expand(v, f"{path}.{k}") for k, v in named.items()}
        return registry.expand(_with_default_name(field, value), path)
    if dataclasses.is_dataclass(hint) and not dataclasses.is_dataclass(value):
        return expand(hint, value, path)  # pyright: ignore[reportArgumentType]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return expand(type(value), _shallow(value), path)
    args = typing.get_args(hint)
    if typing.get_origin(hint) is dict and dataclasses.is_dataclass(args[-1]):
        entry: Any = args[-1]
        return {k: expand(entry, v, f"{path}.{k}") for k, v in check(dict, value, path).items()}
    return check(hint, value, path)


def _with_default_name(field, value):
    """Returns a choice without a name as a change of the field's default choice."""
    if isinstance(value, Mapping) and "name" not in value:
        return {**_default(field), **value}
    return value


def _default(field) -> Mapping:
    made = field.default_factory() if callable(field.default_factory) else {}
    return made if isinstance(made, Mapping) else {}


def _shallow(value) -> dict:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def construct(cls: type, values: Mapping, path: str = "config") -> Any:
    """Returns `cls(**values)` with nested choices and sections constructed.

    A `ValueError` of the constructor (a field out of range) becomes a `UserError` naming `path`.
    """
    built = {}
    for key, (field, hint) in fields_of(cls).items():
        if key not in values:
            continue
        value: Any = values[key]
        where = f"{path}.{key}"
        registry = field.metadata.get("registry")
        args = typing.get_args(hint)
        if registry is not None and value is not None:
            if field.metadata.get("many"):
                value = {k: registry.build(v, f"{where}.{k}") for k, v in value.items()}
            else:
                value = registry.build(value, where)
        elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            value = construct(hint, value, where)  # pyright: ignore[reportArgumentType]
        elif isinstance(value, Mapping) and args and dataclasses.is_dataclass(args[-1]):
            entry: Any = args[-1]
            value = {k: construct(entry, v, f"{where}.{k}") for k, v in value.items()}
        built[key] = value
    try:
        return cls(**built)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def check(hint: Any, value: Any, path: str) -> Any:
    """Returns `value` as the type `hint` (list -> tuple, int -> float), or raises `UserError`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return value
    if origin in (typing.Union, types.UnionType):
        for arm in args:
            try:
                return check(arm, value, path)
            except UserError:
                continue
        raise _wrong(hint, value, path)
    if hint is type(None) or hint is None:
        if value is None:
            return None
        raise _wrong(hint, value, path)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 images is a natural thing to write
    if origin is tuple or hint is tuple:
        if not isinstance(value, (tuple, list)):
            raise _wrong(hint, value, path)
        if not args:
            return tuple(value)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise _wrong(hint, value, path)
        return tuple(check(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value)))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, path)
        return {k: check(args[1], v, f"{path}.{k}") if args else v for k, v in value.items()}
    if hint in (int, float, str, bool):
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
        raise _wrong(hint, value, path)
    return value


def _wrong(hint, value, path: str) -> UserError:
    kind = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    return UserError(f"{path}: expected {kind or hint}, got {value!r} ({type(value).__name__})")
