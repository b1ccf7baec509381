"""A loaded model as the density that `genjax eval --metrics bpd` asks, and that command's flags."""

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys
from genjax.core.errors import UserError
from genjax.evaluation.extractors import describe_module, tree_hash
from genjax.evaluation.images import ImageSet, to_uint8
from genjax.parallel import Rules, batch_sharding, to_host, using
from genjax.solvers.likelihood import ODE, Trace
from genjax.tasks.generate import whole_batch
from genjax.tasks.latents import bits_per_dim, null_label

FLAGS = ("passes", "images", "probe", "probes", "tolerance", "eps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of bits/dim; each is None unless given."""
    group = parser.add_argument_group("bits per dimension (--metrics bpd)")
    group.add_argument("--passes", type=int, help="passes over the images (default 1)")
    group.add_argument("--images", type=int, help="so many images at random (default: all)")
    group.add_argument(
        "--probe", help="probes of the divergence: rademacher (default), gaussian or exact"
    )
    group.add_argument("--probes", type=int, help="probes per image (default 1)")
    group.add_argument("--tolerance", type=float, help="rtol and atol of the ODE (default 1e-5)")
    group.add_argument("--eps", type=float, help="first time (default: the process's t_min)")


def given(args: argparse.Namespace, asked: bool) -> dict[str, Any]:
    """Returns those of the flags that were given; `UserError` unless bits/dim are asked for."""
    found = {k: getattr(args, k) for k in FLAGS if getattr(args, k) is not None}
    if found and not asked:
        raise UserError(f"--{next(iter(found))}: belongs to bits/dim; add bpd to --metrics")
    return found


class ModelDensity:
    """Bits/dim of uint8 images by a `Model`; see `genjax.evaluation.density.Density`.

    `settings`: the flags that were given; `data`: what will be asked, under its labels where both
    it and the model have classes, else under the null label. `advance(what, total, n)` is told of
    progress.
    """

    name = "model"

    def __init__(
        self,
        model: Any,
        settings: dict[str, Any],
        data: ImageSet,
        *,
        batch: int,
        seed: int,
        advance: Callable[[str, int, int], None],
    ):
        self._model, self._task = model, model.task
        count = min(data.size, settings.get("images", data.size))
        self._total, self._advance = count * settings.get("passes", 1), advance
        self.batch = whole_batch(count, batch, model.mesh)
        try:
            tolerance = settings.get("tolerance", ODE.rtol)
            self._ode = ODE(rtol=tolerance, atol=tolerance, eps=settings.get("eps"))
            self._trace = Trace(**{k: settings[k] for k in ("probe", "probes") if k in settings})
            self._span = self._ode.span(self._task.process)
        except ValueError as error:
            raise UserError(f"--metrics bpd: {error}") from error
        self._labels = self._known(data) if self._task.num_classes else None
        self._seed = np.asarray(jax.random.key_data(keys.key(seed, "bits per dimension")))
        self.hash = tree_hash(model.params, describe_module(self._task.model))
        self._run = jax.jit(self._bits)

    @property
    def protocol(self) -> str:
        ode, trace, task = self._ode, self._trace, self._task
        asked = "no labels"
        if task.num_classes:
            asked = "null label" if self._labels is None else "labels of the data"
        probes = (
            "exact divergence"
            if trace.probe == "exact"
            else f"{trace.probes} {trace.probe} probe{'s' if trace.probes > 1 else ''}"
        )
        clauses = [
            f"probability-flow ODE from t = {self._span[0]:g} to {self._span[1]:g}",
            f"rk45 with rtol {ode.rtol:g} and atol {ode.atol:g} per {ode.norm}",
            probes,
            f"uniform dequantisation of {task.levels} levels",
            asked,
            f"weights {self._model.ema}",
        ]
        if self._model.step is not None:
            clauses.append(f"step {self._model.step}")
        return "; ".join(clauses)

    def __call__(self, images: np.ndarray, indices: np.ndarray, number: int) -> dict:
        """Returns {"bits", "nfe", "ok"}, each [n]; see `Density`."""
        count, levels = len(images), self._task.levels
        grey = np.rint(images * ((levels - 1) / 255.0)).astype(np.uint8)
        if not np.array_equal(to_uint8(grey, levels), images):
            raise UserError(
                f"--reference: its images have other grey values than the {levels} levels that "
                "this model was trained on; name data of as many levels"
            )
        index = np.pad(indices, (0, self.batch - count), mode="edge").astype(np.uint32)
        batch = {"index": index}
        batch["image"] = np.pad(grey, ((0, self.batch - count), *[(0, 0)] * 3), mode="edge")
        if self._labels is not None:
            batch["label"] = self._labels[index]
        model = self._model
        if model.mesh is None:
            arrays = jax.tree.map(jnp.asarray, batch)
        else:
            sharding = batch_sharding(model.mesh)
            arrays = {
                k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__)
                for k, v in batch.items()
            }
        found = to_host(self._run(model.params, arrays, self._seed, number))
        self._advance("bits/dim", self._total, count)
        return {k: v[:count] for k, v in found.items()}

    def _bits(self, params, batch, seed, number):
        mesh = self._model.mesh
        with contextlib.nullcontext() if mesh is None else using(mesh, Rules()):
            key = jax.random.fold_in(jax.random.wrap_key_data(seed), number)
            cond = {"label": batch["label"]} if "label" in batch else None
            bits, found = bits_per_dim(
                self._task,
                params,
                batch["image"],
                keys.per_sample(key, batch["index"]),
                cond,
                self._ode,
                self._trace,
            )
            return {"bits": bits, "nfe": found.nfe, "ok": found.ok}

    def _known(self, data: ImageSet) -> np.ndarray | None:
        labels, classes = data.labels, self._task.num_classes
        if labels is None:
            null_label(self._task, jnp.zeros((1,)))  # raises where there is no such label
            return None
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(
                f"--reference: labels from {labels.min()} to {labels.max()}, but the model knows "
                f"0 to {classes - 1}; name data of the same classes"
            )
        return labels.astype(np.int32)
