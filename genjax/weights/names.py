"""Checks that every importer makes of a file's names and shapes, with one wording."""

from collections.abc import Mapping

from genjax.core.errors import UserError


def check(
    format: str,
    found: Mapping,
    wanted: Mapping[str, tuple[int, ...]],
    optional: frozenset[str] = frozenset(),
) -> None:
    """Raises `UserError`, naming tensors, unless `found` holds what `wanted` says, and no more.

    `found`: tensors by name; `wanted`: shapes by name; `optional` names may be missing.
    """
    missing = [name for name in wanted if name not in found and name not in optional]
    unknown = [name for name in found if name not in wanted]
    for what, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                f"{format}: the file {what} {len(names)} tensor(s): {some}; it is of another "
                "network, or give the configuration it was made with"
            )
    for name, shape in wanted.items():
        if name in found and tuple(found[name].shape) != tuple(shape):
            raise UserError(
                f"{format}: tensor {name} has shape {tuple(found[name].shape)}, where the rest "
                f"of the file (or the given fields) needs {tuple(shape)}"
            )
