"""`genjax.load(PATH)`: a trained or converted model as an object with `sample` and `generate`."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from genjax.checkpoint import Workdir
from genjax.cli import prompts as prompts_lib
from genjax.cli.config import assign, flat, plain
from genjax.cli.formats import FORMATS, task_of_format
from genjax.cli.frozen import load_frozen, with_tokenizer
from genjax.cli.schema import build_run, expand_run
from genjax.cli.trained import default_ema, read_params
from genjax.cli.workdir import read_config
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.parallel import MeshSpec, replicated
from genjax.solvers import GUIDANCES, SOLVERS
from genjax.solvers.decoding import DECODERS
from genjax.tasks import Autoregressive, Diffusion
from genjax.tasks.diffusion import SamplerSettings
from genjax.tasks.generate import Generator, labels_for, whole_batch
from genjax.training.state import place
from genjax.weights import native

SCHEDULE = "genjax-schedule-1"  # format of the files that `genjax search` writes


@dataclasses.dataclass(frozen=True)
class Model:
    """A task with its parameters. `ema` says which weights these are ("raw": not averaged).

    `mesh`: the devices, each with all parameters, over which samples are split (None: one device);
    `sampler`: the settings behind `task.sampler`, as a config gives them; `text`: what turns
    prompts into ids, None for a model that is not conditioned on text.
    """

    task: Any
    params: Tree
    frozen: dict[str, Tree]
    ema: str
    config: dict | None = None
    step: int | None = None
    mesh: Mesh | None = None
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: Any = None

    def sample(
        self,
        num: int,
        labels: Sequence[int] | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        schedule: str | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> np.ndarray:
        """Returns uint8 images [num, h, w, c]; image i depends on the seed and i, not on `batch`.

        `labels` are repeated in turn (None: every class in turn); `steps`, `guidance` (1: none)
        and `solver` replace those of the config, `schedule` (a file of `genjax search`) the whole
        sampler. A model of texts draws the empty one (see `generate`). Raises `UserError` for
        labels out of range.
        """
        model = self if schedule is None else self.scheduled(schedule)
        generator = model.generator(num, steps=steps, guidance=guidance, solver=solver, batch=batch)
        classes = self.labels(num, labels)
        return generator.draw(self.params, self.frozen, num=num, labels=classes, seed=seed)

    def scheduled(self, path: str) -> "Model":
        """Returns the model with the sampler of a file that `genjax search` wrote.

        Warns where the file was searched at another guidance weight than the model's own: times
        that are best at one weight are poor at another. Raises `UserError` for another kind of
        file.
        """
        if not isinstance(self.task, Diffusion):
            raise UserError("--schedule: is of diffusion models; this one draws codes one by one")
        found = read_schedule(path)
        settings = construct(SamplerSettings, merged(self.sampler, found, path), path)
        theirs, ours = (getattr(s.guidance, "weight", 1.0) for s in (settings, self.task.sampler))
        if theirs != ours:
            print(
                f"note: {path} was searched at guidance {theirs:g}; this model's config says "
                f"{ours:g}. The schedule's {theirs:g} is used"
            )
        task = dataclasses.replace(self.task, sampler=settings)
        frozen = self.frozen | _on(self.mesh, guide(task))
        return dataclasses.replace(self, task=task, frozen=frozen)

    def generator(
        self, num: int, *, steps=None, guidance=None, solver=None, decoding=None, batch=None
    ) -> Generator:
        """Returns the generator behind `sample`, compiled once a sampler and batch size.

        `batch` is rounded up to a multiple of the number of devices.
        """
        if num < 1:
            raise UserError(f"the number of samples must be at least 1, not {num}")
        task = with_sampler(
            self.task, steps=steps, guidance=guidance, solver=solver, decoding=decoding
        )
        whole = whole_batch(num, batch or 256, self.mesh)
        if (task, whole) not in self._generators:
            self._generators[task, whole] = Generator(task, batch=whole, mesh=self.mesh)
        return self._generators[task, whole]

    @cached_property
    def _generators(self) -> dict[tuple[Diffusion, int], Generator]:
        return {}

    def labels(self, num: int, labels: Sequence[int] | None) -> np.ndarray | None:
        """Returns the labels [num] of samples; see `genjax.tasks.generate.labels_for`."""
        return labels_for(num, labels, self.task.num_classes, null=self.task.has_null)

    def denoise(self, x: Array, t: Array | float, labels: Sequence[int] | None = None) -> Array:
        """Returns D(x, t): the estimate of the data [b, ...] in float32, unguided.

        `x` is in the space that the process noises, `t` a scalar or [b] in the process's time;
        without `labels` it is the null label's estimate.
        """
        if not isinstance(self.task, Diffusion):
            raise UserError("denoise: this model draws codes one by one and denoises nothing")
        if labels is None and self.task.num_classes:
            labels = [self.task.num_classes]
        classes = self.labels(len(x), labels)
        cond = None if classes is None else {"label": jnp.asarray(classes)}
        return self._denoise(self.params, jnp.asarray(x), jnp.asarray(t), cond).x0

    @cached_property
    def _denoise(self) -> Callable[..., Any]:
        return jax.jit(self.task.denoiser)

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        candidates: int = 1,
        rerank: Any = None,
        guidance: float | None = None,
        decoding: Mapping[str, float] | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> np.ndarray:
        """Returns the uint8 image [h, w, c] of a prompt, or [n, h, w, c] of a list of prompts.

        Of `candidates` the one is kept that `rerank` likes best: the workdir of a trained CoCa, or
        `genjax.cli.rerank.open_scorer` of it. `guidance` (1: none) and `decoding` (temperature,
        top_k, top_p) replace the config's. Image i depends on the seed and i, not on `batch`.
        Raises `UserError` for a model that is not conditioned on text.
        """
        several = not isinstance(prompt, str)
        asked = list(prompt) if several else [prompt]
        prompts_lib.tokens_of(self, asked)  # what cannot be drawn is refused before weights load
        if isinstance(rerank, str):
            from genjax.cli.rerank import open_scorer

            rerank = open_scorer(rerank)
        drawn = prompts_lib.draw(
            self,
            asked,
            candidates=candidates,
            scorer=rerank,
            guidance=guidance,
            decoding=decoding,
            seed=seed,
            batch=batch,
        )
        return drawn.images if several else drawn.images[0]


def load(path: str, *, ema: str | None = None, tokenizer: str | None = None) -> Model:
    """Returns the model of a workdir of `genjax train`, or of a folder of `genjax convert`.

    `ema`: the average to use (None: the config's first, or raw where it has none; "raw").
    `tokenizer`: for models of codes, what turns them into images in place of the config's
    `task.codec.path`. Where there are several devices, each gets the parameters and its share of
    the samples.
    Raises `UserError` where there is no model, or no such average.
    """
    model = _read(path, ema, tokenizer)
    mesh = MeshSpec().build() if jax.device_count() > 1 else None
    params, frozen = _on(mesh, (model.params, model.frozen | guide(model.task)))
    return dataclasses.replace(model, params=params, frozen=frozen, mesh=mesh)


def guide(task: Diffusion) -> dict[str, Tree]:
    """Returns {"guide": the second network of the task's autoguidance}, or {} without one.

    Raises `UserError` unless it draws the same kind of images by the same process.
    """
    rule = task.sampler.guidance
    if not isinstance(task, Diffusion) or not rule.two_networks:
        return {}
    other = _read(rule.model, rule.ema)
    for what in ("process", "shape", "num_classes"):
        ours, theirs = (getattr(t, what) for t in (task, other.task))
        if ours != theirs:
            raise UserError(
                f"sampler.guidance.model: {rule.model} has {what} = {theirs}, but the model that "
                f"it is to guide has {ours}; give one of the same data and process"
            )
    return {"guide": other.task.network(other.params)}


def _on(mesh: Mesh | None, tree: Tree) -> Tree:
    """Returns the tree with every array whole on each device of the mesh (None: as it is)."""
    if mesh is None:
        return tree
    whole = replicated(mesh)
    return jax.tree.map(lambda x: place(x, whole), tree)


def _read(path: str, ema: str | None, tokenizer: str | None = None) -> Model:
    if native.is_native(path):
        module, variables, facts = native.read_native(path)
        task = task_of_format(facts["format"], module, facts)
        sampler = FORMATS[facts["format"]]["sampler"]
        return Model(task, variables["params"], task.load_frozen(), "raw", sampler=sampler)
    config = read_config(Workdir(path))
    if config is None:
        raise UserError(
            f"{path}: no config.json there; give a workdir of `genjax train`, or a folder of "
            "`genjax convert`"
        )
    run = build_run(expand_run(config))
    if not isinstance(run.task, Diffusion | Autoregressive):
        raise UserError(f"{path}: holds a {config['task']['name']}; it draws no samples")
    task = with_tokenizer(run.task, tokenizer) if tokenizer else run.task
    name = ema or default_ema(run.ema)
    params, step = read_params(path, run, name)
    text = run.data["main"].text if "tokens" in task.streams["main"] else None
    return Model(
        task,
        params["model"],
        load_frozen(task),
        name,
        config,
        step,
        sampler=config["task"]["sampler"],
        text=None if text is None else text.open(),
    )


def merged(sampler: Mapping, changes: Mapping, where: str) -> dict[str, Any]:
    """Returns the sampler with changes (nested, or by dotted key), expanded and checked.

    A change of a choice's name drops the fields of the former choice. Raises `UserError` for keys
    that the sampler has not.
    """
    trial = plain(sampler)
    names_first = sorted(flat(changes).items(), key=lambda item: not item[0].endswith("name"))
    for key, value in names_first:
        assign(trial, key, plain(value))
    return expand(SamplerSettings, trial, where)


def read_schedule(path: str) -> dict[str, Any]:
    """Returns the sampler of a file that `genjax search` wrote; `UserError` for any other file."""
    try:
        content = json.loads(Path(path).read_text())
        known = content["format"] == SCHEDULE
        sampler = dict(content["sampler"])
    except OSError as error:
        raise UserError(f"--schedule: {path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--schedule: {path} is no schedule; give a schedule.json of `genjax search`"
        ) from error
    if not known:
        raise UserError(f"--schedule: {path} has the format {content['format']!r}, not {SCHEDULE}")
    return sampler


def with_sampler(
    task: Any,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    solver: str | None = None,
    decoding: Mapping[str, float] | None = None,
) -> Any:
    """Returns the task with what the command line asks for instead of the config's sampler.

    `decoding`: fields of the decoder, such as its temperature; for models of codes alone.
    """
    changes: dict[str, Any] = {}
    codes = isinstance(task, Autoregressive)
    if steps is not None:
        if codes:
            raise UserError("--steps: this model draws all its codes one by one; leave it out")
        if steps < 1:
            raise UserError(f"--steps: must be at least 1, not {steps}")
        changes["steps"] = int(steps)
    if solver is not None:
        named = (DECODERS if codes else SOLVERS).build({"name": solver}, "--solver")
        if type(named) is not type(task.sampler.solver):  # the config's own keeps its settings
            changes["solver"] = named
    if decoding:
        if not codes:
            raise UserError(f"{', '.join(decoding)}: this model draws no codes; leave it out")
        try:
            changes["solver"] = dataclasses.replace(task.sampler.solver, **decoding)
        except (TypeError, ValueError) as error:
            raise UserError(f"decoding: {error}") from error
    if guidance is not None:
        changes["guidance"] = _guidance(task, float(guidance))
    return task.with_sampler(**changes) if changes else task


def _guidance(task: Any, weight: float) -> Any:
    """Returns the config's guidance with another weight, or plain guidance where it has none."""
    given = task.sampler.guidance
    if any(field.name == "weight" for field in dataclasses.fields(given)):
        return dataclasses.replace(given, weight=weight)
    return GUIDANCES.build({"name": "cfg", "weight": weight})
