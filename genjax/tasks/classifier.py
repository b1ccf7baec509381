"""The task of training a classifier: of clean images for evaluation, or of noisy ones to guide."""

import dataclasses
import inspect
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys
from genjax.core.arrays import Array, Tree, bcast
from genjax.core.registry import choice, option
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.objectives.classification import Classification
from genjax.process import PROCESSES, TIMES
from genjax.process.gaussian import Process

_STILL = Progress(0, 0, 1)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that tells the classes of labelled images apart.

    `levels` is the number of grey levels of the stored pixels; the network sees them in [-1, 1].
    With a `process` it learns p_t(y|x) of images noised to times of the law `times`: the network is
    told ln lam, lam = sigma/alpha, and sees x_t/sqrt(alpha^2 + sigma^2), both in units where data
    lie in [-1, 1]. So it guides models of every process at the noise levels that it has seen. The
    loss is the plain mean over the times as they are drawn.
    """

    model: Any = choice(MODELS, {"name": "classifier"}, "the network")
    objective: Classification = option(Classification(), "the loss")
    image: tuple[int, int, int] = option((28, 28, 1), "height, width and channels of the pixels")
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")
    process: Any = choice(PROCESSES, None, "noise of the images (None: they are clean)")
    times: Any = choice(TIMES, {"name": "uniform"}, "the law of the noise's times")
    data_range: tuple[float, float] = option(
        (-1.0, 1.0), "range of the pixels in whose units the process's sigma is"
    )

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")
        if not self.data_range[0] < self.data_range[1]:
            raise ValueError("data_range must be (low, high) with low < high")
        sees = "log_lam" in inspect.signature(type(self.model).__call__).parameters
        if self.process is not None and not sees:
            raise ValueError(
                f"process: a {type(self.model).__name__} is not told how noisy its images are; "
                'choose the model "wide_resnet", or no process'
            )

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        image = ArraySpec(self.image, "uint8", ("height", "width", "channels"))
        return {"main": {"image": image, "label": ArraySpec((), "int32")}}

    @cached_property
    def players(self) -> tuple[Player, ...]:
        return (Player("model", ("model",), partial(self.objective, self._logits)),)

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        told = () if self.process is None else (jnp.zeros((1,), jnp.float32),)
        variables = self.model.init(key, jnp.zeros((1, *self.image), jnp.float32), *told)
        return {"params": {"model": variables["params"]}, "mutable": {}}

    def load_frozen(self) -> dict[str, Tree]:
        return {}

    def frozen_shapes(self) -> dict[str, Tree]:
        return {}

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        return self.objective(self._logits, params, view, batch, key, _STILL, train=False)[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.image)

    def predict(
        self, params: Tree, images: Array, *, levels: int | None = None
    ) -> dict[str, Array]:
        """Returns {"features": [b, d], "logits": [b, K]}, float32, of the network's `params`.

        `images` [b, h, w, c] hold grey values 0 .. levels-1 (None: as stored, `self.levels`;
        256 for images made for the eye). A classifier of noisy images is told its least noise.
        """
        x = _scaled(images, levels or self.levels)
        if self.process is None:
            return self.model.apply({"params": params}, x)
        least = jnp.full(x.shape[:1], self._seen[0])
        return self.model.apply({"params": params}, x, jnp.log(least))

    def log_likelihood(
        self,
        params: Tree,
        x: Array,
        t: Array,
        label: Array,
        process: Process,
        data_range: tuple[float, float],
    ) -> Array:
        """Returns log p_t(label|x) [b] of noisy images x [b, h, w, c] at times t [b].

        They are of any `process` and `data_range`: the classifier's own noise levels are found by
        sigma/alpha; beyond those that it was trained on it is told the nearest.
        """
        logits = self._noisy(params, x, t, process, data_range, train=False)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]

    @cached_property
    def _seen(self) -> tuple[float, float]:
        """The least and the largest sigma/alpha of training, for data in [-1, 1]."""
        half = (self.data_range[1] - self.data_range[0]) / 2
        ends = (self.process.t_min, self.process.t_max)
        return tuple(  # pyright: ignore[reportReturnType]
            float(np.clip(self.process.lam(np.float64(t)) / half, 1e-6, 1e6)) for t in ends
        )

    def _noisy(self, params, x, t, process, data_range, *, train: bool) -> Array:
        """Returns the logits [b, K] of x at times t of `process`, whose data are in `data_range`.

        The network sees (x - alpha centre)/half over sqrt(alpha^2 + (sigma/half)^2).
        """
        low, high = data_range
        centre, half = (high + low) / 2, (high - low) / 2
        alpha, sigma = process.alpha(t), process.sigma(t) / half
        scale = jnp.sqrt(alpha**2 + sigma**2)
        seen = (x - bcast(alpha, x) * centre) / (half * bcast(scale, x))
        # 1e6 stands for infinity where alpha = 0.
        lam = jnp.where(alpha * 1e6 > sigma, sigma / jnp.maximum(alpha, 1e-30), 1e6)
        log_lam = jnp.log(jnp.clip(lam, *self._seen))
        return self.model.apply({"params": params}, seen, log_lam, train=train)["logits"]

    def _logits(self, params: Tree, image: Array, *, train: bool, key: Array) -> Array:
        x = _scaled(image, self.levels)
        if self.process is None:
            rngs = {"dropout": key}
            return self.model.apply({"params": params}, x, train=train, rngs=rngs)["logits"]
        low, high = self.data_range
        x0 = low + (x + 1) * ((high - low) / 2)
        drawn = self.times.sample(keys.fold(key, "times"), len(x), _STILL, self.process)
        eps = jax.random.normal(keys.fold(key, "noise"), x.shape)
        xt = self.process.perturb(x0, eps, drawn.t)
        return self._noisy(params, xt, drawn.t, self.process, self.data_range, train=train)


def _scaled(images: Array, levels: int) -> Array:
    """Returns grey values 0 .. levels-1 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0
