"""Where metrics go: metrics.jsonl, TensorBoard, Weights & Biases and the screen.

Only process 0 of a run writes. When a run resumes, what was written beyond the step it resumes
from is removed first: that part is about to be trained, and written, again.
"""

import hashlib
import importlib.util
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Protocol

from genjax.checkpoint import Workdir
from genjax.core.errors import UserError
from genjax.training.settings import LogSettings

_FILE, _FOLDER = "metrics.jsonl", "metrics"


class Writer(Protocol):
    """One place that metrics go to."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Takes `step`, `images`, `seconds` and metrics (floats by name)."""
        ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def read_metrics(workdir: Workdir | str) -> list[dict]:
    """Returns all lines of a workdir's metrics, in order; a line cut short is left out."""
    workdir = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
    return [line for name in _metric_files(workdir) for line in _lines(workdir, name)]


def _metric_files(workdir: Workdir) -> list[str]:
    single = [_FILE] if workdir.exists(_FILE) else []
    return single + [f"{_FOLDER}/{n}" for n in workdir.listing(_FOLDER) if n.endswith(".jsonl")]


def _lines(workdir: Workdir, name: str) -> list[dict]:
    out = []
    for text in workdir.read(name).splitlines():
        try:
            out.append(json.loads(text))
        except ValueError:
            continue
    return out


class JsonLines:
    """metrics.jsonl, an object a line. Where files cannot grow, metrics/NNNNN.jsonl: a new
    numbered segment at every flush.
    """

    def __init__(self, workdir: Workdir, resumed_step: int, *, append: bool | None = None):
        self.workdir = workdir
        self.append = workdir.appends if append is None else append
        self._held: list[bytes] = []
        for name in _metric_files(workdir):
            lines = _lines(workdir, name)
            kept = [line for line in lines if line.get("step", 0) <= resumed_step]
            content = b"".join(_encode(line) for line in kept)
            if workdir.read(name) != content:
                workdir.write(name, content)

    def write(self, line: Mapping[str, Any]) -> None:
        self._held.append(_encode(line))
        if self.append:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        content = b"".join(self._held)
        if self.append:
            self.workdir.append(_FILE, content)
        else:
            number = 1 + max((int(n.split(".")[0]) for n in self._segments()), default=0)
            self.workdir.write(f"{_FOLDER}/{number:05d}.jsonl", content)
        self._held = []

    def _segments(self) -> list[str]:
        return [n for n in self.workdir.listing(_FOLDER) if n.split(".")[0].isdigit()]

    def close(self) -> None:
        self.flush()


def _encode(line: Mapping[str, Any]) -> bytes:
    """Returns a line of valid JSON: what is not finite becomes null."""
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
    }
    return (json.dumps(clean) + "\n").encode()


class TensorBoard:
    """Event files in tensorboard/, written by tensorboardX; in object stores, uploaded copies."""

    def __init__(self, workdir: Workdir, resumed_step: int):
        from tensorboardX import SummaryWriter  # here, for it takes long to import

        self.workdir = workdir
        self._staging = None if workdir.local else tempfile.TemporaryDirectory()
        self._folder = self._staging.name if self._staging else workdir.at("tensorboard")
        self._events = SummaryWriter(self._folder, purge_step=resumed_step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name != "step" and isinstance(value, (int, float)):
                self._events.add_scalar(name, value, line["step"])

    def flush(self) -> None:
        self._events.flush()
        if self._staging:
            for name in os.listdir(self._folder):
                with open(os.path.join(self._folder, name), "rb") as f:
                    self.workdir.write(f"tensorboard/{name}", f.read())

    def close(self) -> None:
        self._events.close()
        if self._staging:
            self.flush()
            self._staging.cleanup()


class WandB:
    """A run of Weights & Biases that continues when the workdir's run does."""

    def __init__(self, workdir: Workdir, project: str, config: Mapping):
        import wandb

        name = workdir.url()
        run_id = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, id=run_id, name=name, resume="allow", config=dict(config)
        )

    def write(self, line: Mapping[str, Any]) -> None:
        self._run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._run.finish()


class Screen:
    """The state of training on a terminal (a live line with the time left), or as plain lines."""

    def __init__(self, total_images: int, images: int):
        self.total = total_images
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.completed:,.0f} / {task.total:,.0f} images"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("train", total=total_images, completed=images, note="")
            self._bar.start()

    def say(self, text: str) -> None:
        """Shows a line of text that stays."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def write(self, line: Mapping[str, Any]) -> None:
        shown = [f"{k} {_short(v)}" for k, v in line.items() if _shown(k, v)]
        if self._bar:
            note = " ".join(shown)
            self._bar.update(self._task, completed=line["images"], note=note)
            return
        left = line.get("eta_seconds")
        tail = f"  {_clock(left)} left" if left is not None else ""
        self.say(f"step {line['step']}  images {line['images']:,}  {'  '.join(shown)}{tail}")

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def _shown(name: str, value) -> bool:
    return isinstance(value, float) and name not in ("seconds", "eta_seconds")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}"


class Writers:
    """All writers of a run; on processes other than 0, none."""

    def __init__(self, writers: list[Writer], screen: Screen | None):
        self._all, self._screen = writers, screen

    def write(self, line: Mapping[str, Any]) -> None:
        for writer in self._all:
            writer.write(line)

    def say(self, text: str) -> None:
        if self._screen:
            self._screen.say(text)

    def flush(self) -> None:
        for writer in self._all:
            writer.flush()

    def close(self) -> None:
        for writer in reversed(self._all):
            writer.close()


def check_writers(settings: LogSettings) -> None:
    """Raises `UserError` where `settings` asks for what is not installed."""
    if settings.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError("config.log.wandb: wandb is not installed; pip install it, or set ''")


def open_writers(
    workdir: Workdir,
    settings: LogSettings,
    *,
    process: int,
    step: int,
    images: int,
    total_images: int,
    config: Mapping,
) -> Writers:
    """Returns the writers that `settings` asks for. `step`: the step that training begins from."""
    if process:
        return Writers([], None)
    writers: list[Writer] = []
    if settings.wandb:
        writers.append(WandB(workdir, settings.wandb, config))
    writers.append(JsonLines(workdir, step))
    if settings.tensorboard:
        writers.append(TensorBoard(workdir, step))
    screen = Screen(total_images, images)
    return Writers([*writers, screen], screen)
