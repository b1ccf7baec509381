"""Checkpoints: everything or nothing, restored on any mesh, proved to be what was saved.

A checkpoint is a folder named by its step (step N holds exactly N updates) with `state/`, the
arrays by path in orbax's format, and `meta/`, a JSON record: step, images seen, metrics, what the
caller adds (config, versions), and every array's shape, dtype and checksum.

On disks and on gs:// orbax writes by itself, in the background, and a checkpoint appears whole
or not at all. For every other scheme of fsspec it is written to a local folder and uploaded, the
file that says "complete" last; that takes one process and does not run in the background.
"""

import contextlib
import errno
import json
import logging
import os
import posixpath
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from genjax.checkpoint.fingerprint import fingerprints
from genjax.checkpoint.retry import passing
from genjax.checkpoint.workdir import Workdir
from genjax.core.errors import FULL, SaveFailed, UserError

_COMPLETE = "commit_success.txt"


class Damaged(Exception):
    """A checkpoint cannot be read, or is not what was saved."""


class Store:
    """One folder of numbered sets of arrays, in a workdir."""

    def __init__(self, workdir: Workdir, folder: str):
        self.workdir, self.folder = workdir, folder
        self.direct = workdir.local or "gs" in workdir.fs.protocol
        if not self.direct and jax.process_count() > 1:
            raise UserError(
                f"{workdir.path}: several processes can share checkpoints on a mounted disk or "
                "on gs:// only; give such a --workdir"
            )
        self._writing: int | None = None

    @cached_property
    def _saver(self) -> ocp.AsyncCheckpointer:
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def _name(self, step: int, *names: str) -> str:
        return posixpath.join(self.folder, str(step), *names)

    def steps(self) -> list[int]:
        """Returns the steps of all complete sets, in order."""
        found = (int(n) for n in self.workdir.listing(self.folder) if n.isdigit())
        return sorted(s for s in found if self.workdir.local or self._complete(s))

    def _complete(self, step: int) -> bool:
        return self.workdir.exists(self._name(step, _COMPLETE))

    def meta(self, step: int) -> dict:
        """Returns the record of a set; raises `Damaged`."""
        try:
            meta = self.workdir.read_json(self._name(step, "meta", "metadata"))
            if (meta["step"], type(meta["leaves"]), type(meta["images"])) != (step, dict, int):
                raise ValueError(f"its record says step {meta['step']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            if _away(error):
                raise
            raise Damaged(f"its record cannot be read: {error}") from error
        return meta

    def write(self, step: int, flat: Mapping[str, jax.Array], meta: Mapping) -> None:
        """Starts to write a set (all processes call it); `wait` says whether that succeeded."""
        self.wait()
        sums = fingerprints(dict(flat))
        leaves = {k: [list(v.shape), str(v.dtype), sums[k]] for k, v in flat.items()}
        record = {"step": step, **meta, "leaves": leaves}
        # orbax refuses arrays without elements; `read` makes them anew
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave({k: v for k, v in flat.items() if v.size}),
            meta=ocp.args.JsonSave(json.loads(json.dumps(record))),
        )
        self._writing = step
        try:
            # Each process looks for its own way to the storage: while that is away it waits, and
            # the others wait for it. What breaks off later is for the driver to try again.
            self.workdir.probe(f".genjax-probe-{jax.process_index()}")
            if self.direct:
                target = self.workdir.url(self._name(step))
                self._saver.save(epath.Path(target), args=args, force=True)
            else:
                with tempfile.TemporaryDirectory() as staging:
                    local = posixpath.join(staging, str(step))
                    self._saver.save(epath.Path(local), args=args)
                    self._saver.wait_until_finished()
                    self._upload(local, step)
        except Exception as error:
            self._fail(error)

    def _upload(self, local: str, step: int) -> None:
        self.workdir.remove(self._name(step))
        root = Path(local)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            name = path.relative_to(root).as_posix()
            if name != _COMPLETE:
                self.workdir.write(self._name(step, name), path.read_bytes())
        self.workdir.write(self._name(step, _COMPLETE), b"complete")

    def wait(self) -> None:
        """Waits for what is being written; raises `SaveFailed` if that could not be."""
        if self._writing is None:
            return
        try:
            self._saver.wait_until_finished()
        except Exception as error:
            self._fail(error)
        self._writing = None

    def _fail(self, error: Exception):
        step, self._writing = self._writing, None
        rest = "nor can the earlier ones be looked at"
        with contextlib.suppress(Exception):  # the first error is the one to tell
            for _ in range(10):  # other threads of the failed save may still be writing
                self.clean()
                time.sleep(0.1)
            steps = self.steps()
            rest = f"the last complete one is of step {steps[-1]}" if steps else "there is none yet"
        raise SaveFailed(
            f"{self.workdir.path}: {self.folder}/{step} could not be written ({_reason(error)}); "
            f"{rest}"
        ) from error

    def clean(self) -> None:
        """Removes what interrupted writing left behind (process 0; nothing may be in progress)."""
        if jax.process_index():
            return
        for name in self.workdir.listing(self.folder):
            half = name.isdigit() and not self.workdir.local and not self._complete(int(name))
            if half or ".orbax-checkpoint-tmp" in name:
                self.workdir.remove(self.folder, name)

    def set_aside(self, step: int) -> None:
        """Renames a damaged set, so that it counts no more (process 0)."""
        if jax.process_index() == 0:
            target = self._name(step) + ".damaged"
            self.workdir.remove(target)
            self.workdir.move(self._name(step), target)

    def remove(self, step: int) -> None:
        """Removes a set (process 0)."""
        if jax.process_index() == 0:
            if not self.workdir.local:  # half removed it must not count
                self.workdir.remove(self._name(step, _COMPLETE))
            self.workdir.remove(self._name(step))

    def read(self, step: int, leaves: Mapping, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the arrays of `load`, proved by `verify`. Raises `Damaged`."""
        out = self.load(step, wanted)
        self.verify(out, leaves)
        return out

    def load(self, step: int, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the arrays called for by `wanted` (path -> shape, dtype and sharding).

        No process waits for another here. `wanted` must agree with `meta`. Raises `Damaged`.
        """
        stored = {k: v for k, v in wanted.items() if v.size}
        out = {k: _zeros(v) for k, v in wanted.items() if not v.size}
        try:
            return out | self._read_arrays(step, stored)
        except Exception as error:
            exhausted = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
            if exhausted or _away(error):
                raise  # no fault of the file, and no reason to fall back
            raise Damaged(" ".join(str(error).split())[:300]) from error

    def verify(self, arrays: Mapping[str, jax.Array], leaves: Mapping) -> None:
        """Raises `Damaged` unless the arrays have the checksums in `leaves`, that of `meta`.

        A checksum of an array that several processes share takes all of them.
        """
        sums = fingerprints({k: v for k, v in arrays.items() if v.size})
        changed = [k for k, v in sums.items() if v != leaves[k][2]]
        if changed:
            raise Damaged(f'the checksum of "{changed[0]}" is wrong')

    def _read_arrays(self, step: int, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        if not wanted:
            return {}
        args = ocp.args.PyTreeRestore(
            item=dict(wanted),
            restore_args=ocp.checkpoint_utils.construct_restore_args(dict(wanted)),
            partial_restore=True,
        )
        # the bare handler, not a Checkpointer: that one ends in a barrier, at which the other
        # processes would wait in vain for one whose part is damaged
        with contextlib.ExitStack() as stack:
            folder = self.workdir.url(self._name(step, "state"))
            if not self.direct:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                self._download(self._name(step, "state"), Path(folder))
            return ocp.PyTreeCheckpointHandler().restore(epath.Path(folder), args=args)

    def _download(self, name: str, folder: Path) -> None:
        for file in self.workdir.files(name):
            target = folder / posixpath.relpath(file, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.workdir.read(file))

    def close(self) -> None:
        try:
            self.wait()
        finally:
            if "_saver" in self.__dict__:  # who only reads has none
                self._saver.close()


def _away(error: Exception) -> bool:
    """Says whether it was the storage that failed, not what lies there (as unreadable blocks)."""
    return passing(error) and getattr(error, "errno", None) != errno.EIO


def _zeros(spec) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(spec.shape, spec.dtype), out_shardings=spec.sharding)()


def _reason(error: Exception) -> str:
    """Returns what an error of orbax says, in a line."""
    text = " ".join(str(error).split())
    full = (line for line in map(os.strerror, FULL) if line in text)  # its stores nest messages
    return next(full, text[:300])


def report_once() -> None:
    """Keeps orbax's threads from printing what `SaveFailed` tells in a line.

    Each thread of a save that fails logs its traceback, and callbacks to those that gave up print
    theirs. For commands: there, every checkpoint of the process is genjax's.
    """
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_retrieved)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show_unraisable


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _retrieved(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _show_unraisable(unraisable) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
