"""The task of Parti and VIM: image codes one after the other, from text, a class or nothing."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import choice, option
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.models.parti import Parti
from genjax.models.parti_cache import Cache, begin, step
from genjax.objectives.codes import CodeParts, NextCode
from genjax.solvers.decoding import DECODERS, CodeGuidance
from genjax.solvers.sample import solve
from genjax.tasks.image_codes import TOKENIZERS


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """How codes are drawn unless the command line says otherwise."""

    solver: Any = choice(DECODERS, {"name": "categorical"}, "how a code is drawn of its logits")
    guidance: CodeGuidance = option(CodeGuidance(), "how conditional and null logits combine")
    cache: str = option("bfloat16", "float32 or bfloat16: the keys and values that are kept")
    ring: bool = option(True, "keep only keys and values that the conv pattern can still see")
    prefill: int = option(0, "rows of codes that are given whole and read in one pass")

    def __post_init__(self):
        if self.cache not in ("float32", "bfloat16"):
            raise ValueError(f"cache: {self.cache!r} is neither float32 nor bfloat16")
        if self.prefill < 0:
            raise ValueError(f"prefill must be at least 0, not {self.prefill}")


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """A network trained to tell the next code of an image, and its decoding.

    The stream holds "codes" of `genjax prepare tokens` or, with `from_images`, pixels that the
    frozen tokenizer encodes in the step; beside them "tokens" of a text or the "label".
    """

    model: Any = choice(MODELS, {"name": "parti", "variant": "350M"}, "the network")
    objective: NextCode = option(NextCode(), "the loss")
    codec: Any = choice(TOKENIZERS, {"name": "vit_vqgan"}, "the tokenizer, which nobody trains")
    sampler: DecodingSettings = option(DecodingSettings(), "how codes are drawn")
    from_images: bool = option(False, "encode the stream's images in every step (see codec.path)")
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")

    def __post_init__(self):
        if not isinstance(self.model, Parti):
            raise ValueError(f"model: a {type(self.model).__name__} does not tell codes")
        if (self.model.codes, tuple(self.model.grid)) != (self.codec.size, self.codec.grid):
            raise ValueError(
                f"model: {self.model.codes} codes on a grid {tuple(self.model.grid)}, but the "
                f"tokenizer has {self.codec.size} on {self.codec.grid}"
            )
        if self.sampler.prefill >= self.model.grid[0]:
            raise ValueError(f"sampler.prefill: leave one of {self.model.grid[0]} rows to draw")
        if self._conditional and self.objective.condition_dropout and not self.has_null:
            raise ValueError(
                "objective.condition_dropout: this network has no null label to drop to; set "
                "model.null_label, or condition_dropout to 0"
            )
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def has_null(self) -> bool:
        """Whether the network knows a condition that stands for none."""
        return self.model.has_null

    @property
    def _conditional(self) -> bool:
        return bool(self.model.vocab or self.model.num_classes)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels."""
        return self.codec.image

    @property
    def shape(self) -> tuple[int, ...]:
        """(l,), the codes of an image."""
        return (self.model.length,)

    # --- what training asks for -------------------------------------------------------------

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        if self.from_images:
            data = {"image": ArraySpec(self.image, "uint8", ("height", "width", "channels"))}
        else:
            data = {"codes": ArraySpec(self.shape, "int32", (None,))}
        if self.model.vocab:
            data["tokens"] = ArraySpec((self.model.text_length,), "int32", (None,))
        if self.num_classes:
            data["label"] = ArraySpec((), "int32")
        return {"main": data}

    @cached_property
    def parts(self) -> CodeParts:
        return CodeParts(self._prepare, self._logits, self.model.null if self.has_null else None)

    @cached_property
    def players(self) -> tuple[Player, ...]:
        return (Player("model", ("model",), partial(self.objective, self.parts)),)

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        codes = jnp.zeros((1, *self.shape), jnp.int32)
        text = {"tokens": jnp.ones((1, self.model.text_length), jnp.int32)}
        cond = text if self.model.vocab else {"label": jnp.zeros((1,), jnp.int32)}
        variables = self.model.init(key, codes, cond)
        return {"params": {"model": variables["params"]}, "mutable": {}}

    def load_frozen(self, tokenizer: Tree | None = None) -> dict[str, Tree]:
        """Returns {"codec": its variables}, or {} where no path is given and none is needed.

        `tokenizer`: variables that the caller has read.
        """
        if tokenizer is not None:
            return {"codec": tokenizer}
        if self.codec.path:
            return {"codec": self.codec.load()}
        if self.from_images:
            raise UserError("task.codec.path: from_images takes a trained tokenizer; give it")
        return {}

    def frozen_shapes(self) -> dict[str, Tree]:
        """Returns the shapes of what `load_frozen` returns, for plans."""
        shapes = self.codec.shapes()
        return {"codec": shapes} if shapes else {}

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        still = Progress(0, 0, 1)
        return self.objective(self.parts, params, view, batch, key, still, train=False)[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.shape)

    def _prepare(self, stream: Mapping, view: View) -> tuple[Array, dict[str, Array] | None]:
        cond = {name: stream[name] for name in ("tokens", "label") if name in self.streams["main"]}
        if self.from_images:
            x = stream["image"].astype(jnp.float32) * (1.0 / (self.levels - 1))
            return self.codec.encode(view.frozen["codec"], x), cond or None
        return stream["codes"], cond or None

    def _logits(self, params: Tree, codes: Array, cond, *, train: bool, key: Array) -> Array:
        rngs = {"dropout": key} if train else None
        return self.model.apply({"params": params}, codes, cond, train=train, rngs=rngs)

    # --- what sampling asks for -------------------------------------------------------------

    def to_uint8(self, x: Array) -> Array:
        """Returns [0, 1] as 0 .. 255, rounded half up."""
        scaled = jnp.floor(x.astype(jnp.float32) * 255.0 + 0.5)
        return jnp.clip(scaled, 0, 255).astype(jnp.uint8)

    def with_sampler(self, **changes) -> "Autoregressive":
        """Returns the task with another decoder, guidance, cache or number of given rows."""
        return dataclasses.replace(self, sampler=dataclasses.replace(self.sampler, **changes))

    @property
    def solver(self) -> Any:
        return self.sampler.solver

    @property
    def nfe(self) -> int:
        """Decoder steps of one sample (a guided step counts once)."""
        return self.solver.nfe(self.model.length - self._first)

    @property
    def _first(self) -> int:
        """The first position that is decoded."""
        return self.sampler.prefill * self.model.grid[1]

    def rows(self) -> dict[str, Any]:
        """Returns one row per position: "t", "temperature" and guidance's "w"."""
        rows = self.solver.rows(self.model.length, self._first)
        return {**rows, "w": self.sampler.guidance.weights(self.model.length)[self._first :]}

    def draw(self, params: Tree, frozen: dict, rows: dict, sample_keys: Array, cond) -> Array:
        """Returns images [b, h, w, c] in [0, 1]; sample i depends on `sample_keys[i]` alone."""
        return self.draw_measured(params, frozen, rows, sample_keys, cond)[0]

    def draw_measured(
        self, params: Tree, frozen: dict, rows: dict, sample_keys: Array, cond
    ) -> tuple[Array, dict[str, Array]]:
        """Returns `draw`'s images and {}, see `draw_codes`."""
        codes = self.draw_codes(params, rows, sample_keys, cond)
        return self.codec.decode(frozen.get("codec"), codes), {}

    def draw_codes(self, params: Tree, rows: dict, sample_keys: Array, cond) -> Array:
        """Returns codes int32 [b, l] for `cond`: {"tokens"} or {"label"} by row, None: the null.

        `cond` may hold "codes" int32 [b, l] of a given image, -1 where they are to be drawn; with
        `sampler.prefill` its first rows must be known. Raises `UserError` where they are missing,
        and for guidance of a network that knows no null.
        """
        state = self.begin(params, len(sample_keys), cond)
        predict = self._predict(params, bool(cond))
        state = solve(self.solver, predict, rows, state.codes, sample_keys, state.memory)
        return self.solver.output(state)

    def begin(self, params: Tree, b: int, cond) -> Any:
        """Returns the solver's state before the first code; arguments and errors: `draw_codes`."""
        cond = dict(cond or {})
        known = cond.pop("codes", None)
        if known is None:
            if self._first:
                raise UserError("sampler.prefill: no codes are given; give `codes`, or set it to 0")
            known = jnp.full((b, *self.shape), -1, jnp.int32)
        if self._conditional and not cond and not self.has_null:
            raise UserError("this model knows no null label: give it labels")
        doubled = self._doubled(bool(cond))
        if doubled and not self.has_null:
            raise UserError(
                "sampler.guidance: this network has no null label to guide away from; set weight 1"
            )
        return self.solver.init(known, self._cache(params, cond or None, known, doubled))

    def next_code(
        self, params: Tree, state: Any, row: dict, sample_keys: Array, *, conditional: bool
    ) -> Any:
        """Returns the state with the code of one row; `conditional`: whether it began with one."""
        return self.solver.step(self._predict(params, conditional), state, row, sample_keys)

    def _predict(self, params: Tree, conditional: bool) -> Any:
        doubled = self._doubled(conditional)
        return self.sampler.guidance.wrap(partial(self._next, params), doubled=doubled)

    def _doubled(self, conditional: bool) -> bool:
        """Whether each image has its null beside it: guiding the null itself changes nothing."""
        return self.sampler.guidance.weight != 1.0 and conditional

    def _next(self, params: Tree, previous: Array, position: Array, cache: Tree):
        return step(self.model, params, cache, previous, position)

    def _cache(self, params: Tree, cond, known: Array, doubled: bool) -> Cache:
        """Returns the cache before the first step; doubled, with each image and its null beside."""
        given = known[:, : self._first] if self._first else None
        batch = len(known)
        if doubled:
            null = self.model.null(batch)
            pairs = {name: jnp.stack([x, null[name]], 1) for name, x in cond.items()}
            cond = {name: x.reshape(-1, *x.shape[2:]) for name, x in pairs.items()}
            given = None if given is None else jnp.repeat(given, 2, axis=0)
            batch *= 2
        return begin(
            self.model,
            params,
            cond,
            batch,
            given=given,
            ring=self.sampler.ring,
            dtype=self.sampler.cache,
        )
