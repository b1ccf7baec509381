"""The task of every diffusion and flow model: network, process, objective and sampler, assembled.

DiT, SiT and (later) the U-Net papers are choices of the fields below; nothing numerical is here.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core import keys
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import choice, option
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.objectives import OBJECTIVES, Parts
from genjax.process import AUGMENTS, COUPLINGS, PRECONDS, PROCESSES, TIMES, Denoiser, Paired
from genjax.solvers import GRIDS, GUIDANCES, SOLVERS, Solver, noise, solve
from genjax.solvers.base import Predict
from genjax.solvers.impose import Imposed, Known
from genjax.solvers.likelihood import dequantise
from genjax.solvers.network_inputs import INPUTS
from genjax.solvers.time_shift import SHIFTS, NoShift, TimeShift
from genjax.tasks.codec import CODECS, Identity


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """How samples are drawn unless the command line says otherwise."""

    solver: Any = choice(SOLVERS, {"name": "euler"}, "the solver")
    grid: Any = choice(GRIDS, {"name": "uniform"}, "where the solver's steps lie")
    guidance: Any = choice(
        GUIDANCES, {"name": "none"}, "how conditional and null predictions combine"
    )
    inputs: Any = choice(INPUTS, {"name": "none"}, "what the network is given beside x and t")
    shift: Any = choice(SHIFTS, {"name": "none"}, "what is done against exposure bias")
    steps: int = option(50, "solver steps")

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A network trained to denoise (any process, parametrisation and objective), and its sampler.

    `data_range` is the range of the pixels that the process noises, `levels` the number of grey
    levels of the stored pixels. With `latents` the stream holds a codec's moments instead of
    images. The number of classes is the network's `num_classes`; its null label is that number.
    """

    model: Any = choice(MODELS, {"name": "dit", "variant": "S/2"}, "the network")
    process: Any = choice(PROCESSES, {"name": "flow"}, "the noise process")
    precond: Any = choice(PRECONDS, {"name": "velocity"}, "what the network predicts")
    objective: Any = choice(OBJECTIVES, {"name": "flow"}, "the loss")
    times: Any = choice(TIMES, {"name": "uniform"}, "the law of the training times")
    coupling: Any = choice(COUPLINGS, {"name": "independent"}, "how noise and data are paired")
    augment: Any = choice(AUGMENTS, {"name": "none"}, "changes of the data the network is told of")
    codec: Any = choice(CODECS, {"name": "identity"}, "what stands between pixels and the network")
    sampler: SamplerSettings = option(SamplerSettings(), "how samples are drawn")
    image: tuple[int, int, int] = option((32, 32, 3), "height, width and channels of the pixels")
    data_range: tuple[float, float] = option(
        (-1.0, 1.0), "range of the pixels as the model sees it"
    )
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")
    dequantise: bool = option(
        False, "train on pixels with uniform noise of one grey level, as bits/dim see them"
    )
    latents: bool = option(False, "train on moments made by `genjax prepare latents`")
    condition_dropout: float = option(0.1, "probability of training a sample without condition")

    def __post_init__(self):
        if "time" not in inspect.signature(type(self.model).__call__).parameters:
            kind = type(self.model).__name__
            raise ValueError(f"model: a {kind} does not see the time, so it cannot denoise")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError("condition_dropout must lie in [0, 1)")
        if not self.data_range[0] < self.data_range[1]:
            raise ValueError("data_range must be (low, high) with low < high")
        self._check_augment()

    def _check_augment(self) -> None:
        labels, inputs = self.augment.labels, getattr(self.model, "augment", 0)
        if not labels:
            return
        if inputs != labels:
            raise ValueError(
                f"augment: it needs a network that is told its {labels} labels, but this "
                f"{type(self.model).__name__} takes {inputs}; choose a unet with augment = "
                f"{labels}, or augment.name none"
            )
        if self.latents or not isinstance(self.codec, Identity):
            raise ValueError("augment: images are changed, not a codec's latents; use none")
        if isinstance(self.coupling, Paired):
            raise ValueError("augment: the noise of a pair belongs to the image as it is; use none")

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def has_null(self) -> bool:
        """Whether the network knows the null label, `num_classes`."""
        return bool(self.num_classes) and self.model.null_label

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the process noises: the image's, or the codec's latent's."""
        return self.codec.latent_shape(self.image)

    # --- what training asks for -------------------------------------------------------------

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        if self.latents:
            h, w, c = self.shape
            data = {"moments": ArraySpec((h, w, 2 * c), "float32", ("height", "width", "channels"))}
        else:
            data = {"image": ArraySpec(self.image, "uint8", ("height", "width", "channels"))}
        if self.num_classes:
            data["label"] = ArraySpec((), "int32")
        return {"main": data}

    @cached_property
    def denoiser(self) -> Denoiser:
        return Denoiser(self.process, self.precond, self._apply)

    @cached_property
    def parts(self) -> Parts:
        return Parts(
            denoiser=self.denoiser,
            times=self.times,
            coupling=self.coupling,
            prepare=self._prepare,
            null=self.null,
            drop=self.condition_dropout if self.num_classes else 0.0,
            augment=self.augment.sample if self.augment.labels else None,
        )

    @cached_property
    def players(self) -> tuple[Player, ...]:
        objective, project = partial(self.objective, self.parts), None
        if hasattr(self.model, "project"):
            project = partial(_each, self.model.project)
        return (Player("model", ("model",), objective, project=project),)

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        x = jnp.zeros((1, *self.shape), jnp.float32)
        cond = {"label": jnp.zeros((1,), jnp.int32)} if self.num_classes else None
        variables = self.model.init(key, x, jnp.zeros((1,), jnp.float32), cond)
        return {"params": {"model": variables["params"]}, "mutable": {}}

    def load_frozen(self) -> dict[str, Tree]:
        """Returns {"codec": its parameters}, {} where pixels are the data."""
        loaded = self.codec.load()
        return {"codec": loaded} if loaded else {}

    def frozen_shapes(self) -> dict[str, Tree]:
        """Returns the shapes of what `load_frozen` returns, for plans."""
        shapes = self.codec.shapes()
        return {"codec": shapes} if shapes else {}

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        still = Progress(0, 0, 1)
        return self.objective(self.parts, params, view, batch, key, still, train=False)[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.shape)

    def null(self, cond: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the condition that stands for none: every label becomes `num_classes`.

        What an augmentation did to the data is no condition: training never drops it (see `Parts`),
        and it is left out here, which a network takes as nothing done. Raises `UserError` where the
        network has no such label.
        """
        if not self.has_null:
            raise UserError(
                "task.model.null_label: this network has no null label, so that condition_dropout "
                "and guidance have nothing to drop to; set it, or condition_dropout to 0"
            )
        return {"label": jnp.full_like(cond["label"], self.num_classes)}

    def _apply(self, params, x, time, cond, *, train=False, key=None, inputs=None, features=()):
        rngs = None if key is None else {"dropout": key}
        return self.model.apply(
            {"params": params},
            x,
            time,
            cond,
            train=train,
            inputs=inputs,
            features=features,
            rngs=rngs,
        )

    def _prepare(self, stream: Mapping, view: View, key: Array) -> tuple[Array, dict | None]:
        """Returns x0 (float32, what the process noises) and the condition of one stream."""
        cond = {"label": stream["label"]} if self.num_classes else None
        if self.latents:
            return self.codec.from_moments(stream["moments"], key), cond
        image = stream["image"]
        if self.dequantise:
            each = jax.random.split(keys.fold(key, "dequantise"), len(image))
            pixels = dequantise(image, each, self.levels, self.data_range)
        else:
            pixels = self.from_pixels(image)
        return self.codec.encode(view.frozen.get("codec"), pixels, key), cond

    # --- what sampling asks for -------------------------------------------------------------

    def from_pixels(self, image: Array) -> Array:
        """Returns stored grey values 0 .. levels-1 as float32 in `data_range`."""
        low, high = self.data_range
        return image.astype(jnp.float32) * ((high - low) / (self.levels - 1)) + low

    def to_uint8(self, x: Array) -> Array:
        """Returns `data_range` as 0 .. 255, rounded half up ([-1, 1]: floor(127.5 x + 128))."""
        low, high = self.data_range
        if self.dequantise:  # back to the grey value whose noise it was
            grey = jnp.floor((x.astype(jnp.float32) - low) * (self.levels / (high - low)))
            x = self.from_pixels(jnp.clip(grey, 0, self.levels - 1))
        scaled = (x.astype(jnp.float32) - low) * (255.0 / (high - low))
        return jnp.clip(jnp.floor(scaled + 0.5), 0, 255).astype(jnp.uint8)

    def with_sampler(self, **changes) -> "Diffusion":
        """Returns the task with another solver, grid, guidance or number of steps."""
        return dataclasses.replace(self, sampler=dataclasses.replace(self.sampler, **changes))

    @cached_property
    def solver(self) -> Solver:
        return self.sampler.solver.bind(self.process)

    def rows(self) -> dict[str, Any]:
        """Returns the solver's coefficient rows (host, float64) with the guidance weights."""
        rows = self.solver.rows(self.sampler.grid.times(self.process, self.sampler.steps))
        if self.solver.adaptive and getattr(self.sampler.guidance, "interval", None) is not None:
            raise UserError(
                "sampler.guidance.interval: an adaptive solver chooses its own times, so its "
                "guidance weight must be the same at all; leave the interval out"
            )
        if self.sampler.guidance.renoises and not self.solver.renoises:
            raise UserError(
                "sampler.guidance: this rule puts the null branch's noise back, which"
                f" {type(self.sampler.solver).__name__} cannot; choose ddim, euler, euler_ancestral"
                " or a multistep solver without starters and corrections, such as dpmpp_2m or deis"
            )
        encoded = self.latents or not isinstance(self.codec, Identity)
        if isinstance(self.sampler.shift, TimeShift) and encoded:
            self.sampler.shift.check_latents()
        rows = self.sampler.inputs.rows(self.process, self.model, self.shape, rows)
        rows = self.sampler.guidance.rows(self.process, rows)
        return self.sampler.shift.rows(self.solver, rows)

    @property
    def nfe(self) -> int:
        """Denoiser evaluations of one sample (a guided evaluation counts once).

        For a solver that adapts, at most so many; `draw_measured` counts.
        """
        return self.solver.nfe(self.sampler.steps)

    def network(self, params: Tree) -> Callable[..., Any]:
        """Returns fn(x, t, cond, inputs) -> the denoiser's output; a pytree of the parameters."""
        return jax.tree_util.Partial(self._evaluate, params)

    def _evaluate(self, params: Tree, x: Array, t, cond, inputs=None) -> Any:
        return self.denoiser(params, x, t, cond, inputs=inputs)

    def draw(self, params: Tree, frozen: dict, rows: dict, sample_keys: Array, cond) -> Array:
        """Returns images [b, h, w, c] in `data_range`; sample i depends on `sample_keys[i]` alone.

        `rows` are an argument, so that another grid of the same length does not recompile.
        """
        return self.draw_measured(params, frozen, rows, sample_keys, cond)[0]

    def draw_measured(
        self,
        params: Tree,
        frozen: dict,
        rows: dict,
        sample_keys: Array,
        cond,
        known: Known | None = None,
        guide: Callable[[Predict], Predict] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Returns `draw`'s images and what the solver measured of each, see `Solver.measures`.

        `known` is what the sampler must keep to; `guide` is put around every prediction;
        frozen["guide"] is the second network of autoguidance, see `network`.
        """
        null = self.null(cond) if self.has_null and cond is not None else None
        predict, memory = self.sampler.guidance.wrap(
            self.network(params), cond, null, frozen.get("guide")
        )
        predict = predict if guide is None else guide(predict)
        start = rows["t"][0]
        solver, predict = self.sampler.shift.apply(self.solver, predict, len(rows["t"]))
        if known is not None:
            if not isinstance(self.sampler.shift, NoShift):
                raise UserError("sampler.shift: cannot keep to a given part of an image; set none")
            solver = Imposed(solver, known, start)
        x = noise(sample_keys, self.shape, self.process.start_std(start))
        state = solve(solver, predict, rows, x, sample_keys, memory)
        images = self.codec.decode(frozen.get("codec"), solver.output(state))
        return images, solver.measures(state)


def _each(fn: Callable[[Tree], Tree], networks: Mapping[str, Tree]) -> dict[str, Tree]:
    return {name: fn(tree) for name, tree in networks.items()}
