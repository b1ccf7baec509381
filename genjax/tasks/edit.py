"""What `genjax edit` draws: images of which a part is known, of a class, or from their latents.

`Edit` stands where `Generator` expects a task. What is known and the classifier's parameters come
with the frozen networks, so that another mask or image never compiles again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.solvers import Solver
from genjax.solvers.base import Predict
from genjax.solvers.guidance import with_classifier
from genjax.solvers.impose import Known, known_image
from genjax.solvers.likelihood import DEFAULT, ODE
from genjax.solvers.operators import Operator
from genjax.tasks.classifier import Classifier
from genjax.tasks.codec import Identity
from genjax.tasks.diffusion import Diffusion
from genjax.tasks.latents import decode, encode


@dataclasses.dataclass(frozen=True)
class Edit:
    """A task that draws images constrained or guided as `draw_measured` is asked.

    `classifier` and its `weight` w guide towards classes; `legacy`: see `genjax.solvers.impose`.
    Raises `UserError` for a codec (measurements are of pixels, the process is of latents), for a
    classifier of other images, and for one that never saw noise.
    """

    task: Diffusion
    classifier: Classifier | None = None
    weight: float = 1.0
    legacy: bool = False

    def __post_init__(self):
        if not isinstance(self.task.codec, Identity) or self.task.latents:
            raise UserError(
                "--operation: this model is of a codec's latents, where pixels and their classes"
                " are no linear measurement; edits need a model of pixels"
            )
        if self.classifier is None:
            return
        if tuple(self.classifier.image) != tuple(self.task.image):
            raise UserError(
                f"--classifier: reads images {list(self.classifier.image)}, but the model draws "
                f"{list(self.task.image)}; train one on images of that size"
            )
        if self.classifier.process is None:
            raise UserError(
                "--classifier: this one was trained on clean images, and guidance asks it about "
                "noisy ones; train one with a process, such as configs/classifier/digits_noisy.py"
            )

    @property
    def solver(self) -> Solver:
        return self.task.solver

    @property
    def nfe(self) -> int:
        return self.task.nfe

    def rows(self) -> dict[str, Any]:
        return self.task.rows()

    def to_uint8(self, x: Array) -> Array:
        return self.task.to_uint8(x)

    def draw_measured(
        self, params: Tree, frozen: dict, rows: dict, sample_keys: Array, cond: dict | None
    ) -> tuple[Array, dict[str, Array]]:
        """Returns images [b, h, w, c] in the data range, and what the solver measured.

        `cond` holds, where they are asked for, "label" (the network's own), "image" [b, h, w, c]
        (float32 in the data range, of which frozen["operator"] is kept) and "target" [b] (classes
        towards which the classifier, with the parameters frozen["classifier"], guides).
        """
        asked = dict(cond or {})
        image, target = asked.pop("image", None), asked.pop("target", None)
        known = guide = None
        if image is not None:
            operator: Operator = frozen["operator"]
            known = Known(self.task.process, operator, operator.measure(image), self.legacy)
        if target is not None:
            guide = self._guide(frozen["classifier"], target)
        return self.task.draw_measured(
            params, frozen, rows, sample_keys, asked or None, known, guide
        )

    def _guide(self, params: Tree, target: Array) -> Callable[[Predict], Predict]:
        """Returns the wrapper of a prediction that guides towards the classes `target` [b]."""
        task, classifier = self.task, self.classifier
        assert classifier is not None  # who asks for a class has given one

        def log_likelihood(x, t):
            return classifier.log_likelihood(params, x, t, target, task.process, task.data_range)

        return lambda predict: with_classifier(predict, task.process, log_likelihood, self.weight)


@dataclasses.dataclass(frozen=True)
class Encode:
    """Stands where `Generator` expects a task: images in, their latents among its measures."""

    task: Diffusion
    ode: ODE = DEFAULT

    def rows(self) -> dict[str, Any]:
        return {}

    def to_uint8(self, x: Array) -> Array:
        return self.task.to_uint8(x)

    def draw_measured(
        self, params: Tree, frozen: dict, rows: dict, sample_keys: Array, cond: dict
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the images cond["image"] as they are and {"latents", "nfe", "ok"}."""
        del rows, sample_keys
        rest = {k: v for k, v in cond.items() if k != "image"}
        solved = encode(self.task, params, frozen, cond["image"], rest or None, self.ode)
        return cond["image"], {"latents": solved.x, "nfe": solved.nfe, "ok": solved.ok}


@dataclasses.dataclass(frozen=True)
class Decode(Encode):
    """The way back: the images of cond["latents"], and {"nfe", "ok"}."""

    def draw_measured(
        self, params: Tree, frozen: dict, rows: dict, sample_keys: Array, cond: dict
    ) -> tuple[Array, dict[str, Array]]:
        del rows, sample_keys
        rest = {k: v for k, v in cond.items() if k != "latents"}
        solved = decode(self.task, params, frozen, cond["latents"], rest or None, self.ode)
        return solved.x, {"nfe": solved.nfe, "ok": solved.ok}


def measured_picture(task: Diffusion, operator: Operator, image: Array) -> Array:
    """Returns what of `image` [b, h, w, c] (in the data range) is known; the rest is mid-grey."""
    centre = (task.data_range[0] + task.data_range[1]) / 2
    return known_image(operator, operator.measure(jnp.asarray(image) - centre), centre)
