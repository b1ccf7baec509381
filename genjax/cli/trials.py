"""What `genjax search` tries: a candidate becomes a sampler, its samples a value."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from genjax.cli.eval_inputs import (
    LABEL_RULES,
    labels_by_rule,
    load_classifier,
    open_reference,
    statistics_cache,
)
from genjax.cli.model import SCHEDULE, Model, load, merged
from genjax.core.errors import UserError
from genjax.core.registry import Registry, choice, construct, option, required
from genjax.evaluation import METRICS, Settings, Tools, open_extractor
from genjax.evaluation.images import ImageSet, of_arrays
from genjax.evaluation.scorer import Scorer
from genjax.scaling.methods import METHODS, Ranking
from genjax.scaling.spaces import Product, Schedules, StepSpace
from genjax.solvers import GRIDS, pad
from genjax.solvers.network_inputs import NoInputs
from genjax.solvers.time_shift import TimeShift
from genjax.tasks.diffusion import SamplerSettings
from genjax.tasks.generate import Generator, whole_batch

SPACES = Registry("search space", {"steps": StepSpace, "product": Product})


@dataclasses.dataclass(frozen=True)
class Final:
    """How the best candidates are measured again, on noise that the search has not seen."""

    top: int = option(5, "how many of the best")
    num: int = option(5000, "samples a seed")
    seeds: tuple[int, ...] = option((1001, 1002, 1003), "seeds of the fresh noise")

    def __post_init__(self):
        if self.top < 1 or self.num < 2 or not self.seeds:
            raise ValueError("top is at least 1, num at least 2, and there is a seed")


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One run of `genjax search`."""

    model: str = required("workdir of the trained model, or folder of a converted one")
    reference: str = required("the real data, as `genjax eval --reference` takes it")
    ema: str = option("", "EMA by name, raw, or posthoc:WIDTH (empty: the first EMA)")
    sampler: dict = option({}, "changes of the model's sampler that all candidates share")
    space: Any = choice(SPACES, {"name": "steps", "steps": 10}, "what is searched")
    method: Any = choice(METHODS, {"name": "evolution"}, "how it is searched")
    metric: str = option("fid", "fitness: a metric of `genjax eval`")
    maximize: bool = option(False, "whether a larger value is better")
    extractor: str = option("", "feature network, such as classifier:WORKDIR")
    num: int = option(1000, "samples a candidate is judged by, the same noise for all")
    batch: int = option(256, "samples at a time, on all devices")
    labels: str = option("balanced", "classes of the samples: balanced, uniform or data")
    seed: int = option(0, "seed of the search, and of the noise that candidates share")
    baselines: dict = option({}, "name -> sampler changes to compare the best with")
    final: Final = option(Final(), "the comparison at the end")

    def __post_init__(self):
        if self.num < 2 or self.batch < 1:
            raise ValueError("num is at least 2, batch at least 1")
        if self.labels not in LABEL_RULES:
            raise ValueError(f"labels: {self.labels!r} is none of {', '.join(LABEL_RULES)}")
        if self.metric not in METRICS.entries:
            raise ValueError(f"metric: {self.metric!r} is none of {', '.join(METRICS.entries)}")


class Trials:
    """Draws samples with a candidate's sampler and scores them; smaller `fitness` is better.

    One program serves all candidates that differ in times, masks and scales: these are rows of its
    scan. Another solver or guidance compiles once more. `measures` is the solver's of the last
    samples, as `Generator` has it.
    """

    def __init__(self, settings: SearchRun, model: Model, scorer: Scorer, reference: Any):
        self.settings, self.model, self._scorer = settings, model, scorer
        self.sign = -1.0 if settings.maximize else 1.0
        self._reference = reference
        self._base = merged(model.sampler, settings.sampler, "config.sampler")
        self._task = self._with({})
        space = settings.space
        self.prune, self._times = 0.0, None
        if isinstance(space, StepSpace):
            self.prune = space.prune
            grid = GRIDS.build(dict(space.grid), "config.space.grid")
            self._times = grid.times(model.task.process, space.choices)
            blocks = 0
            if space.prune:
                if not hasattr(model.task.model, "num_blocks"):
                    raise UserError(
                        "config.space.prune: no block of a "
                        f"{type(model.task.model).__name__} can be left out; set it to 0"
                    )
                blocks = model.task.model.num_blocks(model.task.shape)
                if not isinstance(self._task.sampler.inputs, NoInputs):
                    raise UserError(
                        "config.space.prune: the sampler's inputs are taken by the blocks; set "
                        "config.sampler.inputs.name to none, or prune to 0"
                    )
            space = space.bind(blocks)
        self.space: Schedules | Product = space
        for name, changes in settings.baselines.items():
            self._with(changes, f"config.baselines.{name}")  # wrong keys are found now
        self._with(self.changes(space.first()))
        self._generators: dict[Any, Generator] = {}
        self.measures: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, settings: SearchRun) -> "Trials":
        """Returns the trials of a config: model, reference and metric opened."""
        metric = METRICS.build({"name": settings.metric}, "config.metric")
        if not metric.samples:
            raise UserError(f"config.metric: {settings.metric} measures no samples; take fid")
        model = load(settings.model, ema=settings.ema or None)
        reference = open_reference(settings.reference, tuple(model.task.image), model.config)
        role = metric.extractor
        network = None
        if role is not None:
            spec = role or settings.extractor
            if not spec:
                raise UserError(
                    f"config.extractor: {settings.metric} needs a feature network, such as "
                    "classifier:WORKDIR"
                )
            network = open_extractor(spec, Tools(load_classifier))
        cache = statistics_cache(None)
        measure = Settings(seed=settings.seed, batch=settings.batch, cache=cache)
        scorer = Scorer(settings.metric, metric, reference, network, measure)
        return cls(settings, model, scorer, reference)

    def changes(self, candidate: Any) -> dict[str, Any]:
        """Returns the sampler changes that a candidate stands for."""
        if isinstance(self.space, Product):
            return self.space.changes(candidate)
        assert self._times is not None  # a schedule's space has its times
        t = [float(self._times[number]) for number, _ in candidate]
        if not self.settings.space.end:
            t.append(float(self._times[-1]))
        out: dict[str, Any] = {"grid": {"name": "listed", "t": tuple(t)}, "steps": len(t) - 1}
        if self.space.blocks:
            skipped = tuple(blocks for _, blocks in candidate)
            out["inputs"] = {"name": "block_mask", "skipped": skipped}
        return out

    def fitness(self, candidate: Any) -> float:
        """Returns the value of a candidate on the noise that all share, negated to maximise."""
        settings = self.settings
        value = self.value(self.changes(candidate), settings.num, settings.seed)
        return self.sign * value

    def value(self, changes: Mapping, num: int, seed: int) -> float:
        """Returns the metric of `num` samples from the seed, with these sampler changes."""
        return self._scorer(self.draw(changes, num, seed)).value

    def draw(self, changes: Mapping, num: int, seed: int) -> ImageSet:
        """Returns `num` samples, with labels by the config's rule."""
        task = self._with(changes)
        model, classes = self.model, self.model.task.num_classes
        labels = labels_by_rule(self.settings.labels, num, classes, self._reference, seed)
        asked = {"num": num, "labels": labels, "seed": seed, "rows": self._rows(task)}
        generator = self._generator(task)
        images = generator.draw(model.params, model.frozen, **asked)
        self.measures = generator.measures
        return of_arrays(f"samples of {self.settings.model}", images, labels)

    def compare(self, ranking: Ranking) -> dict[str, Any]:
        """Returns the report: the best candidates and the baselines on fresh noise, best first.

        The winner of a search is the luckiest of its noise as well: the best is chosen anew.
        """
        final = self.settings.final
        named = {"as configured": {}, **self.settings.baselines}
        top = [(self.sign * v, self.changes(c)) for v, c in ranking[: final.top]]
        rows = [self._row(name, changes, None) for name, changes in named.items()]
        found = [self._row(f"found {i + 1}", c, v) for i, (v, c) in enumerate(top)]
        best = min(found, key=lambda row: self.sign * row["mean"])
        schedule = merged(self._base, best["changes"], "the best candidate")
        for row in rows:
            row["searched"] = self._searched(row["changes"])
        return {
            "metric": self.settings.metric,
            "num": final.num,
            "seeds": list(final.seeds),
            "changes": best["changes"],
            "rows": [*rows, *found],
            "best": best["name"],
            "candidates": len(ranking),
            "schedule": {
                "format": SCHEDULE,
                "sampler": schedule,
                "model": self.settings.model,
                "metric": {self.settings.metric: best["mean"], "num": final.num},
            },
        }

    def _searched(self, changes: Mapping) -> float:
        return self.value(changes, self.settings.num, self.settings.seed)

    def _row(self, name: str, changes: Mapping, searched: float | None) -> dict[str, Any]:
        final = self.settings.final
        values = [self.value(changes, final.num, seed) for seed in final.seeds]
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        return {
            "name": name,
            "changes": changes,
            "values": values,
            "mean": float(np.mean(values)),
            "error": float(error),
            "nfe": self._with(changes).nfe,
            "searched": searched,
        }

    def _with(self, changes: Mapping, where: str = "config.space") -> Any:
        """Returns the model's task with the shared sampler and these changes."""
        settings = construct(SamplerSettings, merged(self._base, changes, where), where)
        return dataclasses.replace(self.model.task, sampler=settings)

    def _rows(self, task: Any) -> dict[str, Any]:
        rows = task.rows()
        space = self.space
        if isinstance(space, Schedules) and space.blocks and "inputs" in rows:
            return pad(rows, max(space.steps, space.most))
        return rows

    def _generator(self, task: Any) -> Generator:
        base = self._task.sampler
        same = {"grid": base.grid, "inputs": base.inputs, "steps": base.steps}
        if isinstance(task.sampler.shift, TimeShift) and task.sampler.shift.widest:
            still = dataclasses.replace(task.sampler.shift, window=0, cutoff=0.0)
            same["shift"] = still  # both are values of the rows
        key = dataclasses.replace(task.sampler, **same)
        if key not in self._generators:
            settings, mesh = self.settings, self.model.mesh
            batch = whole_batch(settings.num, settings.batch, mesh)
            self._generators[key] = Generator(task, batch=batch, mesh=mesh)
        return self._generators[key]

    @property
    def compilations(self) -> int:
        """How many programs the candidates so far have needed."""
        return sum(generator.compilations for generator in self._generators.values())
