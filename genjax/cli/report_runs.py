"""What `genjax report` reads of a workdir: config, metrics, measured values, sample grids."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from genjax.checkpoint import Workdir
from genjax.cli.config import flat
from genjax.cli.workdir import read_config
from genjax.core.errors import UserError
from genjax.training.writers import read_metrics

GRIDS = 6  # sample grids of one kind of weights that are shown
_GRID = re.compile(r"(\d+)_(.+)\.png")
_IN_LOOP = re.compile(r"(\d+)_(.+)\.json")


@dataclasses.dataclass(frozen=True)
class Grid:
    """A picture of samples after `images` images, drawn with `weights`."""

    images: int
    weights: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Measured:
    """An entry of an evaluation's JSON in the file `file`; `images`: of training, if it says."""

    file: str
    images: int | None
    entry: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RunData:
    """One run. `config` has dotted keys; `record` is config.json, `lines` are those of metrics."""

    name: str
    config: dict[str, Any]
    record: Mapping[str, Any]
    lines: list[dict[str, Any]]
    measured: list[Measured]
    grids: list[Grid]

    @property
    def flops_per_image(self) -> float | None:
        """Model FLOPs of training on an image, forward and backward; None where it is not said."""
        for line in reversed(self.lines):
            rate = line.get("images_per_second")
            if rate and line.get("model_tflops"):
                return 1e12 * line["model_tflops"] / rate
        return None

    def curve(self, metric: str) -> tuple[list[float], list[float]]:
        """Returns (images, values) of a metric, without values that are not finite."""
        pairs = [(x["images"], x[metric]) for x in self.lines if x.get(metric) is not None]
        return [p[0] for p in pairs], [p[1] for p in pairs]

    def last(self, metric: str) -> float | None:
        """Returns the newest value of a metric."""
        values = self.curve(metric)[1]
        return values[-1] if values else None


def read_run(path: str, name: str) -> RunData:
    """Returns the run in a workdir (also gs://); `UserError` where there is none."""
    workdir = Workdir(path)
    config = read_config(workdir)
    if config is None:
        raise UserError(f"{path}: no config.json there; give workdirs of `genjax train`")
    return RunData(
        name,
        flat(config),
        workdir.read_json("config.json"),
        read_metrics(workdir),
        _measured(workdir),
        _grids(workdir),
    )


def short_names(paths: list[str]) -> list[str]:
    """Returns the shortest ends of the paths that tell them apart."""
    parts = [[p for p in re.split(r"/+", path.rstrip("/")) if p] or [path] for path in paths]
    for depth in range(1, 1 + max(map(len, parts))):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{paths[0]}: the same workdir is named twice; name each once")


def _measured(workdir: Workdir) -> list[Measured]:
    """Returns the entries of all evaluations, those of training in their order."""
    found = []
    for folder in ((), ("evaluations",)):
        for file in workdir.listing(*folder):
            if not file.endswith(".json") or (not folder and file == "config.json"):
                continue
            try:
                content = workdir.read_json("/".join((*folder, file)))
            except ValueError:
                continue  # no JSON: not one of ours
            if not isinstance(content, dict) or not {"metrics", "reference"} <= content.keys():
                continue
            match = _IN_LOOP.fullmatch(file) if folder else None
            images = int(match[1]) if match else None
            found += [Measured(file, images, entry) for entry in content["metrics"].values()]
    return found


def _grids(workdir: Workdir) -> list[Grid]:
    """Returns up to GRIDS grids of every kind of weights, evenly over training."""
    by_weights: dict[str, list[tuple[int, str]]] = {}
    for file in workdir.listing("samples"):
        if match := _GRID.fullmatch(file):
            by_weights.setdefault(match[2], []).append((int(match[1]), file))
    found = []
    for weights, files in by_weights.items():
        files.sort()
        most = min(GRIDS, len(files))
        chosen = {round(i * (len(files) - 1) / max(most - 1, 1)) for i in range(most)}
        for i in sorted(chosen):
            images, file = files[i]
            found.append(Grid(images, weights, workdir.read(f"samples/{file}")))
    return found
