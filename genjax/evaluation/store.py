"""What an evaluation has done so far, in files: after a kill the same command goes on from there.

Every piece of work (the samples of a model, the features of a set) has a folder of its own, named
by the hash of all that its result depends on. What it made of images 0 .. done - 1 lies in numbered
parts, `rows-FIRST.npz`; `state.npz` says how many images are done, which parts hold them, and keeps
running sums. The state is replaced in one stroke after its parts are whole, so a kill at any moment
loses the images behind `done` and counts none of them twice.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from genjax.core.errors import UserError
from genjax.evaluation.files import read_npz, write_npz
from genjax.evaluation.images import ImageSet, of_arrays

IN_MEMORY = 2**30  # bytes of images up to which a set is held in memory
_STATE = "state.npz"
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of pieces of work, saved every `seconds` (0: after every batch).

    Several processes must all see the folder; the first one writes. `folder` None keeps all in
    memory, and a kill loses it.
    """

    folder: Path | None = None
    seconds: float = 30.0

    def work(self, kind: str, **about: Any) -> "Work":
        """Returns the work that is named by `kind` and everything in `about`, as far as it got."""
        if self.folder is None:
            return Work(None, self.seconds)
        text = json.dumps({"kind": kind, **about}, sort_keys=True)
        folder = self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return Work(folder, self.seconds, text)


class Work:
    """One piece of work: `done` images, their `rows`, and the `sums` over them."""

    def __init__(self, folder: Path | None, seconds: float, about: str = ""):
        self.folder, self._seconds, self._about = folder, seconds, about
        self._held: dict[str, list[np.ndarray]] = {}
        self._read_state()
        self._time = time.monotonic()
        if jax.process_count() > 1:
            counts = multihost_utils.process_allgather(np.asarray(self.done))
            if len(set(np.asarray(counts).tolist())) > 1:
                raise UserError(
                    f"{folder}: the processes see other files there; give --progress a folder "
                    "that all of them share"
                )

    def _read_state(self) -> None:
        found: Arrays = {}
        if self.folder is not None and (self.folder / _STATE).is_file():
            found = read_npz(self.folder / _STATE)
        self.done = self._saved = int(found.pop("done", 0))
        self._bounds = found.pop("bounds", np.zeros(1, np.int64)).tolist()
        self.sums = found

    def add(self, count: int, rows: Arrays, sums: Callable[[], Arrays] = dict) -> None:
        """Notes that `count` more images are done. `rows`: arrays of these images, [count, ...].

        `sums()` gives what has been added up over all images so far; it is saved with them.
        """
        self.done += count
        if self.folder is None or not jax.process_index():
            for name, value in rows.items():
                self._held.setdefault(name, []).append(value)
        if time.monotonic() - self._time >= self._seconds:
            self._save(sums())

    def finish(self, sums: Arrays | None = None) -> None:
        """Saves the rest; afterwards every process can read the rows."""
        if self.folder is None:
            return
        if self.done > self._saved:
            self._save(sums or {})
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"saved {self.folder.name}")
            self._read_state()

    def remove(self) -> None:
        """Removes the folder of this work (the first process does)."""
        if self.folder is not None and not jax.process_index():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, sums: Arrays) -> None:
        self._time = time.monotonic()
        if self.folder is None or jax.process_index():
            return
        if not (self.folder / "about.json").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "about.json").write_text(self._about + "\n")
        if self._held:
            write_npz(self._part(self._bounds[-1]), **{k: _join(v) for k, v in self._held.items()})
            self._held = {}
            self._bounds.append(self.done)
        bounds = np.asarray(self._bounds, np.int64)
        write_npz(self.folder / _STATE, done=np.int64(self.done), bounds=bounds, **sums)
        self._saved = self.done

    def _part(self, first: int) -> Path:
        assert self.folder is not None
        return self.folder / f"rows-{first:010d}.npz"

    def _parts(self) -> Iterator[tuple[int, int, Callable[[Collection[str]], Arrays]]]:
        """Yields (first, stop, read(names)) of the parts; what is only held is the last one."""
        for first, stop in zip(self._bounds, self._bounds[1:]):
            yield first, stop, partial(read_npz, self._part(first))
        if self._held:
            yield self._bounds[-1], self.done, self._of_held

    def _of_held(self, names: Collection[str]) -> Arrays:
        return {k: _join(v) for k, v in self._held.items() if k in names}

    def rows(self, *names: str) -> Arrays:
        """Returns these arrays of all images that are done, [done, ...]; absent ones are left out.

        With a folder it comes after `finish`.
        """
        found: dict[str, list[np.ndarray]] = {}
        for _, _, read in self._parts():
            for name, value in read(names).items():
                found.setdefault(name, []).append(value)
        return {name: _join(parts) for name, parts in found.items()}

    def image_set(self, name: str, made: str) -> ImageSet:
        """Returns the set whose images are the rows `arr_0`, with the labels `arr_1` if any.

        Large sets are read from the parts when needed, one part at a time.
        """
        parts = list(self._parts())
        if not parts:
            raise UserError(f"{name}: holds no images")
        labels = self.rows("arr_1").get("arr_1")
        first = parts[0][2](["arr_0"])["arr_0"]
        if self.folder is None or self.done * first[0].nbytes <= IN_MEMORY:
            return of_arrays(name, self.rows("arr_0")["arr_0"], labels, made)
        last = {0: first}

        def images(start: int, read: Callable[[Collection[str]], Arrays]) -> np.ndarray:
            if start not in last:
                last.clear()
                last[start] = read(["arr_0"])["arr_0"]
            return last[start]

        def pick(indices: np.ndarray) -> np.ndarray:
            out = np.empty((len(indices), *first.shape[1:]), np.uint8)
            for start, stop, read in parts:
                here = (indices >= start) & (indices < stop)
                if here.any():
                    out[here] = images(start, read)[indices[here] - start]
            return out

        return ImageSet(name, self.done, first.shape[1:], pick, lambda: labels, made)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
