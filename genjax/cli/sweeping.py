"""A sweep's config, the runs that it stands for, and what they have measured."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from genjax.checkpoint import Workdir
from genjax.cli.config import flat, literal, read_file, resolve
from genjax.cli.schema import build_run, expand_run
from genjax.cli.workdir import changes, read_config
from genjax.core.errors import UserError
from genjax.core.registry import choice, option, required
from genjax.scaling.analysis import Point
from genjax.scaling.designs import DESIGNS, Cell, Size
from genjax.scaling.laws import FitSettings
from genjax.training.program import PASSES
from genjax.training.writers import read_metrics

RUNS, DIVERGED = "runs", "diverged"
# Tables and projections into the network; see N in docs/scaling.md.
EMBEDDINGS = (
    r"(^|/)(patch_embed|time|label|encoder/table)/",
    r"(^|/)(table|bos|places|rows|columns|position[^/]*)$",
)


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One sweep: a run's config, what all runs change of it, and what sizes change."""

    base: str = required("config that every run starts from, FILE.py or FILE.py:ARGUMENT")
    sizes: dict[str, dict] = required("name -> keys of the config that a size changes")
    changes: dict = option({}, "keys of the config that all runs change (nested, or dotted)")
    shares: dict[str, float] = option(
        {}, "keys that are this share of a run's images, such as a warm-up or a cadence"
    )
    design: Any = choice(DESIGNS, {"name": "isoflop"}, "which sizes are trained for how long")
    metric: str = option("", "what is fitted (empty: heldout/WEIGHTS/loss of the first average)")
    embeddings: tuple[str, ...] = option(
        EMBEDDINGS, "regexes of parameters that N does not count: embeddings"
    )
    transfer: str = option(
        "", "size whose learning rate the others take over, scaled by muP (empty: each its own)"
    )
    fit: FitSettings = option(FitSettings(), "how the laws are fitted")

    def __post_init__(self):
        wrong = [name for name in self.sizes if not re.fullmatch(r"[\w.-]+", name)]
        if not self.sizes or wrong:
            raise ValueError(f"sizes: give names of letters, digits, '.', '_' and '-': {wrong}")
        if self.transfer and self.transfer not in self.sizes:
            raise ValueError(f"transfer: {self.transfer!r} is none of the sizes")
        for key, share in self.shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"shares: {key} = {share} does not lie in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of a sweep: its cell, the flags that make it of the base config, and its workdir."""

    cell: Cell
    base: str
    overrides: tuple[tuple[str, str], ...]
    workdir: Workdir

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def arguments(self) -> list[str]:
        """The arguments of `genjax` that train it."""
        given = [f"--config.{key}={value}" for key, value in self.overrides]
        return ["train", "--config", self.base, "--workdir", self.workdir.url(), *given]

    @property
    def command(self) -> list[str]:
        """The same as a process of this Python."""
        return [sys.executable, "-m", "genjax.cli.main", *self.arguments]

    @property
    def shell(self) -> str:
        """The same as a line of a shell script."""
        return shlex.join(["genjax", *self.arguments])

    @cached_property
    def full(self) -> dict:
        """The resolved config, as `genjax train` will see it."""
        return resolve(read_file(self.base), self.overrides, expand_run)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a config in a workdir; `metric` is the name of L in their metrics."""

    settings: SweepRun
    workdir: Workdir
    jobs: list[Job]
    left_out: list[str]
    metric: str

    @classmethod
    def open(cls, settings: SweepRun, workdir: Workdir) -> "Sweep":
        """Returns the sweep; raises `UserError` naming a size whose run cannot be made."""
        try:
            read_file(settings.base)
        except UserError as error:
            raise UserError(f"config.base: {error}") from error
        networks = {name: _open(settings, name) for name in settings.sizes}
        metrics = {settings.metric or _loss_of(run) for run, _ in networks.values()}
        if len(metrics) > 1:
            raise UserError(f"config.metric: sizes measure {sorted(metrics)}; name one")
        sizes = [_measure(settings, name, *network) for name, network in networks.items()]
        rates = _transferred(settings, networks)
        cells, left_out = settings.design.cells(sizes)
        if not cells:
            raise UserError("config.design: no run is left; change budgets or image limits")
        jobs = [
            Job(
                cell,
                settings.base,
                _overrides(settings, cell.size.name, cell.images, rates[cell.size.name]),
                Workdir(workdir.url(RUNS, cell.name)),
            )
            for cell in cells
        ]
        return cls(settings, workdir, jobs, left_out, metrics.pop())

    def point(self, job: Job) -> Point | None:
        """Returns what a run has measured, None where it is not done.

        Raises `UserError` where its workdir holds another run.
        """
        last = None
        if job.workdir.exists("config.json"):
            for line in read_metrics(job.workdir):
                if line.get("images") == job.cell.images and line.get(self.metric) is not None:
                    last = line
        if last is None:
            return None
        refused = changes(read_config(job.workdir) or {}, job.full)[0]
        if refused:
            raise UserError(
                f"{job.workdir.path}: was run with another config: {'; '.join(refused)}. Give "
                "another --workdir, or remove that folder"
            )
        cell, size = job.cell, job.cell.size
        loss, error = last[self.metric], last.get(f"{self.metric}_error")
        if loss <= 0:
            raise UserError(f"{job.workdir.path}: {self.metric} is {loss}; laws need L above 0")
        return Point(
            cell.name, size.name, size.params, cell.images, cell.flops, cell.budget, loss, error
        )

    def diverged(self, job: Job) -> bool:
        """Says whether a run has ended in values that are not finite: it is not tried again."""
        return self.workdir.exists(DIVERGED, job.name)

    def remember_diverged(self, job: Job) -> None:
        self.workdir.write(f"{DIVERGED}/{job.name}", b"exit code 3\n")


def _overrides(
    settings: SweepRun, size: str, images: int, rates: Mapping[str, Any] = MappingProxyType({})
) -> tuple[tuple[str, str], ...]:
    """Returns the flags of a run: common changes, the size's, `rates`, and what its images set."""
    found = flat(settings.changes) | flat(settings.sizes[size]) | dict(rates)
    found |= {key: max(int(share * images), 1) for key, share in flat(settings.shares).items()}
    found["train.images"] = images
    return tuple((key, _spelled(key, value)) for key, value in sorted(found.items()))


def _spelled(key: str, value: Any) -> str:
    """Returns the flag's text of a value; quoted where plain text would be read as another one."""
    plain = isinstance(value, str) and (key.endswith(".name") or literal(value) == value)
    return value if plain else repr(value)


def _open(settings: SweepRun, name: str) -> tuple[Any, Any]:
    """Returns a size's run, and the boxed shapes of all its parameters."""
    import jax

    from genjax.core import keys

    try:
        full = resolve(read_file(settings.base), _overrides(settings, name, 1), expand_run)
        run = build_run(full)
        return run, jax.eval_shape(lambda: run.task.init(keys.key(0, "init")))["params"]
    except (UserError, ValueError) as error:
        raise UserError(f"config.sizes.{name}: {error}") from error


def _loss_of(run: Any) -> str:
    if not run.heldout.every_images:
        raise UserError(
            "config.changes: heldout.every_images is 0, so that no run measures L; set it, or name "
            "another metric"
        )
    return f"heldout/{next(iter(run.ema), 'raw')}/loss"


def _measure(settings: SweepRun, name: str, run: Any, shapes: Any) -> Size:
    """Returns the size with its N and FLOPs."""
    from genjax.core.tree import flatten
    from genjax.training.state import unboxed

    trained = {net for player in run.task.players for net in player.trains}
    leaves = flatten({net: unboxed(shapes)[net] for net in sorted(trained)})
    counted = [
        leaf.size
        for path, leaf in leaves.items()
        if not any(re.search(pattern, path) for pattern in settings.embeddings)
    ]
    if not counted:
        raise UserError("config.embeddings: they match every parameter; narrow them")
    batch = run.data[next(iter(run.task.streams))].batch
    return Size(name, sum(counted), PASSES * run.task.forward_flops(), batch)


def _transferred(settings: SweepRun, networks: Mapping[str, tuple]) -> dict[str, dict[str, Any]]:
    """Returns size -> the keys that give every parameter muP's learning rate; none without it."""
    if not settings.transfer:
        return {name: {} for name in networks}
    from genjax.scaling.transfer import multipliers

    base, found = networks[settings.transfer][1], {}
    for name, (run, shapes) in networks.items():
        found[name] = {}
        for player in run.task.players:
            key = f"optimizer.{player.optimizer or player.name}.multipliers"
            if len(run.optimizer[player.optimizer or player.name].multipliers) > 1:
                raise UserError(f"config.transfer: {key} is set already; leave it out, or transfer")
            pair = ({net: tree[net] for net in player.trains} for tree in (shapes, base))
            try:
                found[name][key] = multipliers(*pair)
            except UserError as error:
                raise UserError(f"config.sizes.{name}: {error}") from error
    return found


def table(sweep: Sweep, points: Mapping[str, Point]) -> list[str]:
    """Returns the runs of a sweep as lines: N, D, C and what they have measured."""
    width = max(len(job.name) for job in sweep.jobs)
    lines = [f"{'run':{width}s}  {'N':>12s} {'D (images)':>12s} {'C (FLOPs)':>10s}  L"]
    for job in sweep.jobs:
        cell, point = job.cell, points.get(job.name)
        told = "diverged" if sweep.diverged(job) else ""
        if point is not None:
            told = f"{point.loss:.5g}" + (f" +- {point.error:.2g}" if point.error else "")
        lines.append(
            f"{job.name:{width}s}  {cell.size.params:12,d} {cell.images:12,d} "
            f"{cell.flops:10.3g}  {told}"
        )
    if sweep.left_out:
        lines.append(f"left out by their number of images: {', '.join(sweep.left_out)}")
    return lines
