"""A run's folder, on a disk or in an object store: the same few operations for both."""

import contextlib
import dataclasses
import json
import posixpath
from functools import cached_property
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from genjax.core.errors import UserError, is_full


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder `path`: a local one, or `gs://...`, or any other scheme of fsspec.

    Names given to the methods are relative to it. A scheme that is unknown, or whose driver is
    not installed, raises `UserError`.
    """

    path: str

    @cached_property
    def _located(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            fs, root = fsspec.core.url_to_fs(str(self.path))
        except ImportError as error:
            raise UserError(f"{self.path}: {error}; for gs:// install genjax-image[gcs]") from error
        except ValueError as error:
            raise UserError(f"{self.path}: {error}; give a folder or a gs:// address") from error
        return fs, root.rstrip("/") or "/"

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._located[0]

    @property
    def local(self) -> bool:
        """Whether the folder is on a file system of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def appends(self) -> bool:
        """Whether files can grow; in object stores they cannot."""
        return self.local or "memory" in self.fs.protocol

    def at(self, *names: str) -> str:
        """Returns the path of a file within `fs`."""
        return posixpath.join(self._located[1], *names)

    def url(self, *names: str) -> str:
        """Returns the address of a file with its scheme (a plain path where it is local)."""
        return self.at(*names) if self.local else self.fs.unstrip_protocol(self.at(*names))

    def create(self) -> None:
        """Makes the folder and proves that files can be written there, or raises `UserError`.

        A full disk is an `OSError` as it is everywhere else.
        """
        probe = ".genjax-probe"
        try:
            self._make_folder(self.at())
            with self.open(probe, "wb") as f:
                f.write(b"genjax")
            self.remove(probe)
        except Exception as error:  # every store's driver has its own
            with contextlib.suppress(Exception):
                self.remove(probe)
            if isinstance(error, OSError) and is_full(error):
                raise
            if self.local and not isinstance(error, OSError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{self.path}: cannot be written ({reason}); give another --workdir"
            ) from error

    def _make_folder(self, path: str) -> None:
        if self.appends:  # object stores have no folders, only names with slashes
            self.fs.makedirs(path, exist_ok=True)

    def exists(self, *names: str) -> bool:
        return self.fs.exists(self.at(*names))

    def listing(self, *names: str) -> list[str]:
        """Returns the names in a folder, sorted; an absent folder is empty."""
        folder = self.at(*names)
        self.fs.invalidate_cache(folder)
        if not self.fs.isdir(folder):
            return []
        found = (path.rstrip("/") for path in self.fs.ls(folder, detail=False))
        return sorted(posixpath.basename(path) for path in found if path != folder)

    def open(self, name: str, mode: str = "rb") -> IO[Any]:
        """Opens a file; for writing, its folder is made first."""
        if mode[0] in "wa":
            self._make_folder(posixpath.dirname(self.at(name)))
        return self.fs.open(self.at(name), mode)  # pyright: ignore[reportReturnType]

    def read_json(self, name: str) -> Any:
        with self.open(name) as f:
            return json.loads(f.read())

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all (object stores do so anyway)."""
        if not self.local:
            with self.open(name, "wb") as f:
                f.write(content)
            return
        partial = name + ".tmp"
        try:
            with self.open(partial, "wb") as f:
                f.write(content)
            self.fs.mv(self.at(partial), self.at(name))
        except BaseException:
            with contextlib.suppress(Exception):
                self.remove(partial)
            raise

    def remove(self, *names: str) -> None:
        """Removes a file or a folder with all that is in it."""
        self.fs.rm(self.at(*names), recursive=True)
