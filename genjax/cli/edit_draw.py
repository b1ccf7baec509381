"""The work of `genjax edit`: images read, edited by the model, and what to write of them."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.cli.edit_inputs import open_images, open_operator
from genjax.cli.eval_inputs import load_classifier
from genjax.cli.model import Model, with_sampler
from genjax.cli.sample import parse_labels
from genjax.core.errors import UserError
from genjax.solvers import GUIDANCES
from genjax.solvers.likelihood import ODE
from genjax.tasks import Classifier, Diffusion
from genjax.tasks.edit import Decode, Edit, Encode, measured_picture
from genjax.tasks.generate import Generator, labels_for, whole_batch
from genjax.tasks.latents import slerp

CheckOut = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """uint8 `images` [n, h, w, c], their `labels` [n] or None, and further `arrays` to write.

    `about` says how they were made; `shown`: what the picture shows above them, by name (where
    there is nothing, it is `columns` wide).
    """

    images: np.ndarray
    labels: np.ndarray | None
    about: str
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    shown: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    columns: int = 8


def edit(args: argparse.Namespace, model: Model, check_out: CheckOut) -> Result:
    """Returns what the command asks for; `check_out(n)` is called before n images are drawn."""
    if args.operation == "class":
        return _guided(args, model, check_out)
    if args.operation in ("encode", "interpolate"):
        return _latent(args, model, check_out)
    return _restored(args, model, check_out)


def _restored(args: argparse.Namespace, model: Model, check_out: CheckOut) -> Result:
    operator = open_operator(args, model.task.image)
    given = open_images(args, model.task.image, model.config)
    labels = _network_labels(args, model.task, given.size)
    task = with_sampler(model.task, steps=args.steps, solver=args.solver, guidance=args.guidance)
    if args.labels is None:
        if args.guidance is not None:
            raise UserError("--guidance: is between a label and none; it needs --labels")
        task = _unguided(task)
    check_out(given.size)
    inputs = given.read(np.arange(given.size))
    x = _to_range(task, inputs)
    edit = Edit(task, legacy=bool(args.legacy))
    model = dataclasses.replace(model, frozen={**model.frozen, "operator": operator})
    images, generator = _draw(args, model, edit, labels, {"image": x})
    measured = task.to_uint8(measured_picture(task, operator, jnp.asarray(x[:16])))
    return Result(
        images,
        given.labels if args.labels is None else labels,
        f"{generator.evaluations} evaluations each",
        shown={"input": inputs, "measured": np.asarray(measured)},
    )


def _guided(args: argparse.Namespace, model: Model, check_out: CheckOut) -> Result:
    classifier, params = load_classifier(args.classifier, "--classifier")
    if not isinstance(classifier, Classifier):
        raise UserError(
            f"--classifier: {args.classifier} holds no classifier; train one with "
            "configs/classifier"
        )
    num = args.num or 16
    target = labels_for(num, parse_labels(args.labels), classifier.num_classes, null=False)
    assert target is not None  # a classifier has classes
    task = _unguided(with_sampler(model.task, steps=args.steps, solver=args.solver))
    weight = 1.0 if args.guidance is None else args.guidance
    edit = Edit(task, classifier, weight)
    check_out(num)
    own = _no_label(task, num) if task.num_classes else None
    frozen = {**model.frozen, "classifier": jax.device_get(params)}
    model = dataclasses.replace(model, frozen=frozen)
    images, generator = _draw(args, model, edit, own, {"target": target})
    return Result(
        images,
        target,
        f"{generator.evaluations} evaluations each, classifier weight {weight:g}",
        columns=min(classifier.num_classes, 32),
    )


def _latent(args: argparse.Namespace, model: Model, check_out: CheckOut) -> Result:
    task = model.task
    given = open_images(args, task.image, model.config)
    labels = _network_labels(args, task, given.size)
    frames = args.frames if args.operation == "interpolate" else 1
    if frames > 1 and given.size % 2:
        raise UserError(
            f"--images: {given.size} images are no pairs; give an even number, or --num"
        )
    ode = ODE(rtol=args.tolerance, atol=args.tolerance)
    check_out(given.size // 2 * frames if frames > 1 else given.size)
    inputs = given.read(np.arange(given.size))
    _, encoder = _draw(args, model, Encode(task, ode), labels, {"image": _to_range(task, inputs)})
    latents, spent = encoder.measures["latents"], encoder.measures["nfe"]
    written = given.labels if args.labels is None else labels
    if frames == 1:
        images, _ = _draw(args, model, Decode(task, ode), labels, {"latents": latents})
        away = np.abs(images.astype(int) - inputs.astype(int)).max()
        about = (
            f"{spent.mean():.1f} evaluations to encode, decoded within {away} of 255 grey levels"
        )
        shown = {"input": inputs}
        return Result(images, written, about, {"latents": latents}, shown)
    w = np.linspace(0, 1, frames, dtype=np.float32)
    a, b = (np.repeat(latents[k::2], frames, axis=0) for k in (0, 1))
    between = np.asarray(slerp(jnp.asarray(a), jnp.asarray(b), np.tile(w, len(a) // frames)))
    nearer = np.where(np.arange(frames) < frames / 2, 0, 1)
    owner = (2 * np.arange(given.size // 2)[:, None] + nearer).reshape(-1)
    labels = None if labels is None else labels[owner]
    images, _ = _draw(args, model, Decode(task, ode), labels, {"latents": between})
    return Result(
        images,
        None if written is None else np.asarray(written)[owner],
        f"{frames} a pair, {spent.mean():.1f} evaluations to encode",
        columns=frames,
    )


def _draw(
    args: argparse.Namespace,
    model: Model,
    task: Any,
    labels: np.ndarray | None,
    given: dict[str, np.ndarray],
) -> tuple[np.ndarray, Generator]:
    """Returns uint8 images [num, h, w, c] of what is `given` [num, ...], and their generator."""
    num = len(next(iter(given.values())))
    batch = whole_batch(num, args.batch, model.mesh)
    generator = Generator(task, batch=batch, mesh=model.mesh)
    asked = {"num": num, "labels": labels, "seed": args.seed, "given": given}
    return generator.draw(model.params, model.frozen, **asked), generator


def _to_range(task: Diffusion, images: np.ndarray) -> np.ndarray:
    """Returns uint8 images as float32 in the task's data range."""
    low, high = task.data_range
    return (low + images.astype(np.float64) * ((high - low) / 255)).astype(np.float32)


def _network_labels(args: argparse.Namespace, task: Diffusion, num: int) -> np.ndarray | None:
    """Returns the labels [num] that the network is told: --labels in turn, or none's."""
    labels = parse_labels(args.labels)
    if labels is None and task.num_classes:
        return _no_label(task, num)
    return labels_for(num, labels, task.num_classes, null=task.has_null)


def _no_label(task: Diffusion, num: int) -> np.ndarray:
    if not task.has_null:
        raise UserError(
            "--labels: this model knows no label that stands for none; give the images' classes"
        )
    return np.full(num, task.num_classes, np.int32)


def _unguided(task: Diffusion) -> Diffusion:
    return task.with_sampler(guidance=GUIDANCES.build({"name": "none"}))
