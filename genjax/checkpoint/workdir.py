"""A run's folder, on a disk or in an object store: the same few operations for both."""

import contextlib
import dataclasses
import json
import posixpath
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from genjax.checkpoint.retry import retried
from genjax.core.errors import UserError, is_full

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder `path`: a local one, or `gs://...`, or any other scheme of fsspec.

    Names given to the methods are relative to it. A scheme that is unknown, or whose driver is
    not installed, raises `UserError`. What fails and may pass is tried again (`retried`).
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
        try:
            self._make_folder(self.at())
            self.probe()
        except Exception as error:  # every store's driver has its own
            if isinstance(error, OSError) and is_full(error):
                raise
            if self.local and not isinstance(error, OSError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{self.path}: cannot be written ({reason}); give another --workdir"
            ) from error

    def probe(self, name: str = ".genjax-probe") -> None:
        """Writes and removes a file: returns when the storage is there, waiting as `retried`."""
        try:
            self.write(name, b"genjax")
            self.remove(name)
        except Exception:
            with contextlib.suppress(Exception):
                self.fs.rm_file(self.at(name))
            raise

    def _make_folder(self, path: str) -> None:
        if self.appends:  # object stores have no folders, only names with slashes
            self.fs.makedirs(path, exist_ok=True)

    def _try(self, operation: Callable[[], T], *names: str) -> T:
        return retried(self.at(*names), operation)

    def exists(self, *names: str) -> bool:
        # not `fs.exists`, to which every failure means no
        try:
            self._try(lambda: self.fs.info(self.at(*names)), *names)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _entries(self, *names: str) -> list[tuple[str, bool]]:
        """Returns (name, whether it is a folder) of what is in a folder, sorted."""
        folder = self.at(*names)

        def look():
            self.fs.invalidate_cache(folder)
            return self.fs.ls(folder, detail=True)

        try:
            found = self._try(look, *names)
        except (FileNotFoundError, NotADirectoryError):
            return []
        paths = ((f["name"].rstrip("/"), f["type"] == "directory") for f in found)
        inside = ((path, is_folder) for path, is_folder in paths if path != folder)
        return sorted((posixpath.basename(path), is_folder) for path, is_folder in inside)

    def listing(self, *names: str) -> list[str]:
        """Returns the names in a folder, sorted; an absent folder is empty."""
        return [name for name, _ in self._entries(*names)]

    def read(self, name: str) -> bytes:
        def attempt():
            with self.fs.open(self.at(name), "rb") as f:
                return f.read()

        return self._try(attempt, name)  # pyright: ignore[reportReturnType]

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all (object stores do so anyway), its folder first."""
        self._try(lambda: self._write(name, content), name)

    def _write(self, name: str, content: bytes) -> None:
        self._make_folder(posixpath.dirname(self.at(name)))
        if not self.local:
            with self.fs.open(self.at(name), "wb") as f:
                f.write(content)  # pyright: ignore[reportArgumentType]
            return
        partial = self.at(name + ".tmp")
        try:
            with self.fs.open(partial, "wb") as f:
                f.write(content)  # pyright: ignore[reportArgumentType]
            self.fs.mv(partial, self.at(name))
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm_file(partial)
            raise

    def append(self, name: str, content: bytes) -> None:
        """Adds to the end of a file (where `appends`), making it if need be."""
        path = self.at(name)
        size = (self._try(lambda: self.fs.size(path), name) if self.exists(name) else 0) or 0

        def attempt():
            self._make_folder(posixpath.dirname(path))
            with self.fs.open(path, "ab") as f:
                f.truncate(size)  # what a try before this one has left
                f.seek(size)
                f.write(content)  # pyright: ignore[reportArgumentType]

        self._try(attempt, name)

    def remove(self, *names: str) -> None:
        """Removes a file or a folder with all that is in it; what is not there is no error."""
        # A file a request: of a long list of requests one would fail, again and again.
        for name in [] if self.local else self.files(*names):
            self._remove(self.fs.rm_file, name)
        self._remove(lambda path: self.fs.rm(path, recursive=True), *names)

    def _remove(self, how: Callable[[str], object], *names: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._try(lambda: how(self.at(*names)), *names)

    def files(self, *names: str) -> list[str]:
        """Returns the names of all files beneath a folder."""
        found = []
        for name, is_folder in self._entries(*names):
            inside = posixpath.join(*names, name)
            found += self.files(inside) if is_folder else [inside]
        return found

    def move(self, source: str, target: str) -> None:
        """Renames a folder; in object stores its files are copied, then removed."""
        if self.local:
            self._try(lambda: self.fs.mv(self.at(source), self.at(target)), source)
            return
        for name in self.files(source):
            copy = target + name.removeprefix(source)
            self._make_folder(posixpath.dirname(self.at(copy)))
            self._try(lambda a=name, b=copy: self.fs.cp_file(self.at(a), self.at(b)), name)
        self.remove(source)
