"""Reads and writes of whole small files and of shards, local or on fsspec stores (gs://, memory://).

ArrayRecord and image decoding want local files: a remote file is copied once, when it is first
needed, into a folder under the machine's temporary directory. For data sets larger than the disk
mount the bucket (gcsfuse) and give the mounted path.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from genjax.core.errors import UserError


def is_remote(path: str) -> bool:
    """Says whether `path` is a URL such as gs://bucket/folder."""
    return "://" in path


def join(path: str, name: str) -> str:
    """Returns `path/name` for local paths and URLs."""
    return f"{path.rstrip('/')}/{name}"


def store(path: str) -> tuple[Any, str]:
    """Returns the fsspec file system and its own name of `path`."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise UserError(
            f"{path}: this kind of path needs one more package ({error}); "
            "for gs:// install the extra `gcs`"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: {error}; give a folder or a URL such as gs://...") from error


def exists(path: str) -> bool:
    """Says whether the file or folder exists."""
    fs, name = store(path)
    return fs.exists(name)


def read_bytes(path: str) -> bytes:
    """Returns the contents; raises `FileNotFoundError`."""
    fs, name = store(path)
    with fs.open(name, "rb") as file:
        return file.read()


def write_bytes(path: str, data: bytes) -> None:
    """Writes the whole file or nothing: locally by renaming, remotely because stores do so."""
    if is_remote(path):
        fs, name = store(path)
        with fs.open(name, "wb") as file:
            file.write(data)
        return
    part = f"{path}.{os.getpid()}.part"
    try:
        Path(part).write_bytes(data)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def sizes(path: str) -> dict[str, int]:
    """Returns the size in bytes of every file directly in the folder, by one listing."""
    fs, name = store(path)
    return {e["name"].rsplit("/", 1)[-1]: e["size"] for e in fs.ls(name, detail=True)}


def make_folder(path: str) -> None:
    """Creates the folder (and its parents) unless it is there."""
    fs, name = store(path)
    try:
        fs.makedirs(name, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot create this folder ({error.strerror or error}); "
            "choose another or mend its permissions"
        ) from error


def delete(path: str) -> None:
    """Deletes the file if it is there."""
    fs, name = store(path)
    if fs.exists(name):
        fs.rm(name)


def local_copy(path: str, version: str) -> str:
    """Returns a local file with the contents of `path`; a local path is returned as it is.

    `version` names the contents (a hash, say): a copy of the same version is used again.
    """
    if not is_remote(path):
        return path
    folder = Path(tempfile.gettempdir()) / f"genjax-data-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / hashlib.sha256(f"{path}\n{version}".encode()).hexdigest()[:32]
    if not target.exists():
        fs, name = store(path)
        part = f"{target}.{os.getpid()}.part"
        fs.get_file(name, part)
        os.replace(part, target)
    return str(target)
