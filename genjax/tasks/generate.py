"""Samples by global index: the same image i whatever the batch, the devices and the processes."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from genjax.core import keys
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.parallel import Rules, batch_sharding, using


def labels_for(
    num: int, labels: Sequence[int] | None, num_classes: int, *, null: bool = True
) -> np.ndarray | None:
    """Returns [num] int32 labels: those given, repeated in turn, or every class in turn.

    None for a model without classes. `null`: whether the model knows the label `num_classes`, which
    stands for none. Raises `UserError` for a label that the model has not.
    """
    if not num_classes:
        if labels is not None and len(labels):
            raise UserError("labels: this model was trained without classes; leave them out")
        return None
    given = np.arange(num_classes) if labels is None else np.asarray(labels, np.int64)
    if not len(given):
        raise UserError("labels: the list is empty; give numbers such as 0,1,2")
    wrong = given[(given < 0) | (given >= num_classes + null)]
    if len(wrong):
        raise UserError(
            f"labels: {int(wrong[0])} is out of range; this model knows 0 to {num_classes - 1}"
            + f" ({num_classes} stands for no label)" * null
        )
    return np.resize(given, num).astype(np.int32)


def whole_batch(num: int, batch: int, mesh: jax.sharding.Mesh | None) -> int:
    """Returns `batch`, or `num` where that is less, rounded up to a multiple of the devices."""
    parts = 1 if mesh is None else mesh.size
    return -(-min(num, batch) // parts) * parts


class Generator:
    """Draws samples of a task in batches of one compiled shape.

    `mesh`: the batch, which must divide evenly, is split over its data axes as `rules` say; None:
    one device. Every process of a multi-process run gets all images.
    """

    def __init__(
        self,
        task: Any,
        *,
        batch: int,
        mesh: jax.sharding.Mesh | None = None,
        rules: Rules | None = None,
    ):
        self.task, self.batch, self.mesh, self.rules = task, batch, mesh, rules or Rules()
        self._measured: list[dict[str, np.ndarray]] = []
        self.rows = on_host(task.rows())
        self._draw = jax.jit(self._images)
        self.compilations = 0  # one, unless rows or labels come in other shapes

    def _images(self, params, frozen, rows, seed, indices, cond):
        self.compilations += 1  # JAX runs this method only to compile it
        # The mesh must be known to the network: kernels run under shard_map on it.
        with contextlib.nullcontext() if self.mesh is None else using(self.mesh, self.rules):
            sample_keys = keys.per_sample(jax.random.wrap_key_data(seed), indices)
            x, measured = self.task.draw_measured(params, frozen, rows, sample_keys, cond)
            return self.task.to_uint8(x), measured

    def __call__(
        self,
        params: Tree,
        frozen: dict[str, Tree],
        *,
        num: int,
        labels: np.ndarray | None,
        seed: int,
        first: int = 0,
        given: Mapping[str, np.ndarray] | None = None,
        rows: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yields (uint8 images [b, h, w, c], labels [b] or None) of samples first .. num-1.

        `given`: further arrays [num, ...] that the task's `draw_measured` finds beside the label.
        `rows` take the place of the task's: those of the same solver on another grid, say.
        Afterwards `evaluations` and `problem` say what the samples cost.
        """
        self._measured = []
        rows = self.rows if rows is None else on_host(rows)
        seed_data = np.asarray(jax.random.key_data(keys.key(seed, "sample")))
        for start in range(first, num, self.batch):
            stop = min(start + self.batch, num)
            index = np.minimum(np.arange(start, start + self.batch), num - 1).astype(np.uint32)
            cond = {} if labels is None else {"label": labels}
            cond = {k: v[index] for k, v in (cond | dict(given or {})).items()}
            arrays = self._place({**cond, "index": index})
            indices = arrays.pop("index")
            drawn = self._draw(params, frozen, rows, seed_data, indices, arrays or None)
            if self.mesh is not None and jax.process_count() > 1:
                drawn = multihost_utils.process_allgather(drawn, tiled=True)
            keep = stop - start
            images, measured = drawn
            self._measured.append({k: np.asarray(v)[:keep] for k, v in measured.items()})
            yield np.asarray(images)[:keep], None if labels is None else labels[start:stop]

    def trace(self, params: Tree, frozen: Mapping[str, Tree], cond: Tree | None) -> Any:
        """Returns the traced program of one batch, of shapes alone; `cond` as a call makes it."""
        key = jax.ShapeDtypeStruct(jax.random.key_data(keys.key(0, "sample")).shape, np.uint32)
        where = None if self.mesh is None else batch_sharding(self.mesh, self.rules)
        index = jax.ShapeDtypeStruct((self.batch,), np.uint32, sharding=where)
        return self._draw.trace(params, frozen, self.rows, key, index, cond)

    def draw(self, params: Tree, frozen: dict[str, Tree], **asked: Any) -> np.ndarray:
        """Returns the images of a call, all in one array [num, h, w, c].

        Raises `UserError` where an adaptive solve did not reach its end.
        """
        images = np.concatenate([images for images, _ in self(params, frozen, **asked)])
        if self.problem:
            raise UserError(self.problem)
        return images

    @property
    def measures(self) -> dict[str, np.ndarray]:
        """What the solver measured of the last samples, [num, ...] each; {} for most solvers."""
        names = self._measured[0] if self._measured else {}
        return {k: np.concatenate([m[k] for m in self._measured]) for k in names}

    @property
    def evaluations(self) -> str:
        """`evaluations` of the last samples."""
        return evaluations(self.task, self.measures)

    @property
    def problem(self) -> str:
        """`problem` of the last samples."""
        return problem(self.measures)

    def _place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        if self.mesh is None:
            return {k: jnp.asarray(v) for k, v in batch.items()}
        # Every process knows the whole batch, so each device takes its rows by their global index:
        # image i stands at place i however processes and devices lie in the mesh.
        sharding = batch_sharding(self.mesh, self.rules)
        return {
            k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__)
            for k, v in batch.items()
        }


def evaluations(task: Any, measures: Mapping[str, np.ndarray]) -> str:
    """Returns the network evaluations of a sample: a number, or what samples were counted to take.

    Such as "50", or "132.5 (104 to 176)" where every sample took its own steps.
    """
    if not task.solver.adaptive:
        return str(task.nfe)
    nfe = measures.get("nfe", ())
    if not len(nfe):
        return f"at most {task.nfe}"
    return f"{np.mean(nfe):.1f} ({np.min(nfe)} to {np.max(nfe)})"


def problem(measures: Mapping[str, np.ndarray]) -> str:
    """Returns one line on the samples whose adaptive solve did not reach its end, or ""."""
    ok = np.asarray(measures.get("ok", ()), bool)
    lost = int(np.sum(~ok))
    if not lost:
        return ""
    return (
        f"sampler.solver.max_steps: {lost} of {len(ok)} samples did not reach the end of the ODE; "
        "raise it, or rtol and atol where they ask for more than float32 has"
    )


def on_host(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rows in float32, cast once from the host's float64; integers and flags stay."""

    def cast(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.astype(np.float32) if np.issubdtype(leaf.dtype, np.floating) else leaf

    return jax.tree.map(cast, dict(rows))
