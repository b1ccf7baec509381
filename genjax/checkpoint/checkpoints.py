"""A run's checkpoints and the snapshots of its EMAs: what is saved, kept and restored."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from genjax.checkpoint.retry import passing
from genjax.checkpoint.store import Damaged, Store
from genjax.checkpoint.workdir import Workdir
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.core.tree import flatten, nested

_log = logging.getLogger("genjax")


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest `last`, the first of every `every_images` images (0: off)
    and the `best` ones by `metric` (`mode`: "min" or "max"; those without it are not among them).
    """

    last: int = 2
    every_images: int = 0
    best: int = 0
    metric: str = ""
    mode: str = "min"

    def stay(self, metas: Mapping[int, Mapping]) -> set[int]:
        """Returns the steps that stay. `metas`: step -> its record."""
        steps = sorted(metas)
        kept = set(steps[-self.last :])
        if self.every_images:
            first: dict[int, int] = {}
            for step in steps:
                first.setdefault(metas[step]["images"] // self.every_images, step)
            kept |= {step for period, step in first.items() if period}
        if self.best:
            sign = 1 if self.mode == "min" else -1
            values = {s: metas[s].get("metrics", {}).get(self.metric) for s in steps}
            known = [s for s in steps if values[s] is not None and np.isfinite(values[s])]
            kept |= set(sorted(known, key=lambda s: sign * values[s])[: self.best])
        return kept


def _all_agree(ok: bool) -> bool:
    """Says whether `ok` holds on every process."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


class Checkpoints:
    """The checkpoints of a run (`checkpoints/`) and the snapshots of its EMAs (`ema/`).

    Every process of a run calls the methods alike. Reading alone writes nothing.
    """

    def __init__(self, workdir: Workdir | str, retention: Retention | None = None):
        self.workdir = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
        self.retention = retention or Retention()
        self._states = Store(self.workdir, "checkpoints")
        self._snapshots = Store(self.workdir, "ema")
        self._last: int | None = None  # the newest step known to be whole
        self._metas: dict[int, dict] = {}

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, in order."""
        return self._states.steps()

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return (self.steps() or [None])[-1]

    def save(
        self,
        state: Tree,
        *,
        step: int,
        images: int,
        meta: Mapping | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save `state` (its field `step` must be `step`) and returns.

        `images` seen is the data position; `meta` is JSON to be kept with it (config, versions);
        `metrics` decide which checkpoints are best. Raises `SaveFailed` if this or the previous
        save could not be written.
        """
        if step == self._last:
            return
        self._states.wait()
        self._prune()
        if int(state.step) != step:
            raise RuntimeError(f"the loop counts step {step}, the state {int(state.step)}")
        record = {**(meta or {}), "images": images, "metrics": dict(metrics or {})}
        self._states.write(step, flatten(state), record)
        self._last = step

    def _prune(self) -> None:
        if jax.process_index():
            return
        try:
            self._remove_old()
        except Exception as error:
            if not passing(error):
                raise
            _log.warning("old checkpoints stay until the next save: %s", error)

    def _remove_old(self) -> None:
        metas, unreadable = {}, []
        for step in self.steps():
            try:
                metas[step] = self._metas.get(step) or _brief(self._states.meta(step))
            except Damaged:
                unreadable.append(step)
        self._metas = metas
        stay = self.retention.stay(metas)
        newest = max(metas, default=0)
        for step in [*metas, *(s for s in unreadable if s < newest)]:
            if step not in stay:
                self._states.remove(step)

    def restore(self, abstract: Tree) -> tuple[Tree, dict] | None:
        """Returns (state, meta) of the newest readable checkpoint, or None if there is none at all.

        `abstract`: the state's shapes, dtypes and shardings, which need not be those that it was
        saved with. A damaged checkpoint is set aside with a logged line and the one before it is
        taken. Raises `UserError` naming the array if shapes, dtypes or names differ, and if no
        checkpoint can be read.
        """
        self._states.clean()
        self._snapshots.clean()
        wanted = flatten(abstract)
        steps = self.steps()
        for step in reversed(steps):
            found = self._attempt(step, wanted, exact=True)
            if found is not None:
                self._last = step
                leaves, meta = found
                ordered = [leaves[path] for path in wanted]
                return jax.tree.unflatten(jax.tree.structure(abstract), ordered), meta
            self._states.set_aside(step)
        if steps:
            raise UserError(
                f"{self.workdir.path}: none of its checkpoints {steps} can be read; restore a copy "
                "of checkpoints/, or start again in another --workdir"
            )
        return None

    def _attempt(
        self, step: int, wanted: Mapping[str, Any], *, exact: bool
    ) -> tuple[dict, dict] | None:
        """Returns (arrays, meta), or None, with a logged line, if the checkpoint is damaged."""
        reason, out, meta = "", None, {}
        try:
            meta = self._states.meta(step)
            _compare(f"{self.workdir.path}: step {step}", meta["leaves"], wanted, exact)
            out = self._states.load(step, wanted)
        except Damaged as error:
            reason = str(error)
        # Checksums take all processes, so they wait until it is known that all could read.
        if _all_agree(out is not None):
            assert out is not None
            try:
                self._states.verify(out, meta["leaves"])
            except Damaged as error:
                reason = str(error)
            if _all_agree(not reason):
                return out, meta
        _log.warning(
            "checkpoint of step %d is damaged (%s); trying the one before it",
            step,
            reason or "another process could not read its part",
        )
        return None

    def restore_params(
        self,
        weights: str = "raw",
        *,
        step: int | None = None,
        abstract: Mapping[str, Tree] | None = None,
    ) -> tuple[dict[str, Tree], dict]:
        """Returns (network -> parameters, meta) without reading the optimiser's state.

        `weights`: "raw", or the name of an EMA; `step`: None is the newest readable checkpoint;
        `abstract`: network -> shapes, dtypes and shardings of the networks to read (None: all, on
        the default device, in nested dicts). Raises `UserError` if the workdir, the step or the
        EMA is not there, if nothing can be read, and as `restore` does.
        """
        steps = self.steps()
        if not steps:
            raise UserError(
                f"{self.workdir.path}: no checkpoint there; give a workdir of `genjax train`"
            )
        if step is not None and step not in steps:
            raise UserError(f"{self.workdir.path}: no checkpoint of step {step}; there are {steps}")
        for candidate in reversed(steps) if step is None else (step,):
            found = self._read_weights(candidate, weights, abstract)
            if found is not None:
                return found
        raise UserError(f"{self.workdir.path}: no checkpoint of it can be read; restore a copy")

    def _read_weights(self, step: int, weights: str, abstract) -> tuple[dict, dict] | None:
        try:
            leaves = self._states.meta(step)["leaves"]
        except Damaged:
            leaves = {}
        averages = sorted({k.split("/")[1] for k in leaves if k.startswith("ema/")})
        if leaves and weights != "raw" and weights not in averages:
            raise UserError(
                f"{self.workdir.path}: no EMA {weights!r}; it has {', '.join(['raw', *averages])}"
            )
        prefix = "params/" if weights == "raw" else f"ema/{weights}/"
        wanted = _wanted(leaves, prefix, abstract)
        found = self._attempt(step, wanted, exact=False)
        if found is None:
            return None
        tree = nested({k.removeprefix(prefix): v for k, v in found[0].items()})
        if abstract is not None:
            paths = flatten(abstract)
            ordered = [found[0][prefix + path] for path in paths]
            tree = jax.tree.unflatten(jax.tree.structure(abstract), ordered)
        return tree, found[1]

    def snapshot(self, ema: Mapping[str, Tree], *, step: int, images: int, meta: Mapping) -> None:
        """Starts to save the EMAs (name -> network -> tree) of a step in `ema/`, for good."""
        if step not in self._snapshots.steps():
            self._snapshots.write(step, flatten(ema), {**meta, "images": images})

    def snapshots(self) -> dict[int, int]:
        """Returns step -> images seen of every readable snapshot of the EMAs."""
        out = {}
        for step in self._snapshots.steps():
            with contextlib.suppress(Damaged):
                out[step] = self._snapshots.meta(step)["images"]
        return out

    def read_snapshot(self, step: int, name: str) -> dict[str, Tree]:
        """Returns network -> parameters of one EMA in a snapshot. Raises `UserError`."""
        try:
            leaves = self._snapshots.meta(step)["leaves"]
            wanted = _wanted(leaves, f"{name}/", None)
            if not wanted:
                raise UserError(
                    f"{self.workdir.path}: the snapshot of step {step} has no EMA {name!r}"
                )
            found = self._snapshots.read(step, leaves, wanted)
        except Damaged as error:
            raise UserError(
                f"{self.workdir.path}: ema/{step} is damaged ({error}); remove that folder"
            ) from error
        return nested({k.removeprefix(f"{name}/"): v for k, v in found.items()})

    def wait(self) -> None:
        """Waits until all that was saved is on disk; raises `SaveFailed`."""
        self._states.wait()
        self._snapshots.wait()
        self._prune()

    def close(self) -> None:
        self._states.close()
        self._snapshots.close()


def _brief(meta: Mapping) -> dict:
    return {"images": meta["images"], "metrics": meta.get("metrics", {})}


def _wanted(leaves: Mapping, prefix: str, abstract) -> dict[str, Any]:
    if abstract is not None:
        return {prefix + path: leaf for path, leaf in flatten(abstract).items()}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        k: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=device)
        for k, (shape, dtype, _) in leaves.items()
        if k.startswith(prefix)
    }


def _compare(where: str, leaves: Mapping, wanted: Mapping[str, Any], exact: bool) -> None:
    """Raises `UserError` naming the first array that is not as the run wants it."""
    for path, spec in wanted.items():
        if path not in leaves:
            raise UserError(f'{where} has no "{path}"; resume with the config that saved it')
        shape, dtype, _ = leaves[path]
        if tuple(shape) != tuple(spec.shape):
            raise UserError(
                f'{where}: "{path}" has shape {tuple(shape)}, the run wants {tuple(spec.shape)}; '
                "resume with the config that saved it"
            )
        if dtype != str(spec.dtype):
            raise UserError(
                f'{where}: "{path}" is {dtype}, the run wants {spec.dtype}; resume with the config '
                "that saved it"
            )
    extra = sorted(leaves.keys() - wanted.keys()) if exact else []
    if extra:
        raise UserError(
            f'{where} also has "{extra[0]}", which the run has not; resume with the config that '
            "saved it"
        )
