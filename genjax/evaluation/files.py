"""`.npz` files: written whole or not at all, read without ever opening a pickle."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from genjax.core.errors import UserError


def write_npz(path: str | Path, **arrays: Any) -> None:
    """Writes the arrays, not compressed; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as f:
        np.savez(f, **arrays)
        f.flush()
        os.fsync(f.fileno())  # the name must not outlive the content when the machine dies
    part.replace(path)


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.npz`, of `names` those that it holds; `UserError` for what is none.

    Pickles are refused.
    """
    with _opened(path) as data:
        return {k: data[k] for k in data.files if names is None or k in names}


def keys(path: str | Path) -> frozenset[str]:
    """Returns the names of a `.npz`'s arrays without reading them; `UserError` for what is none."""
    with _opened(path) as data:
        return frozenset(data.files)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as data:
            yield data
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except Exception as error:  # zip, zlib, npy and pickle errors have no common class
        raise UserError(f"{path}: cannot be read as .npz ({error})") from error
