"""How fast training goes: time without pauses, images a second, model FLOPs, MFU and goodput."""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator

from jax.sharding import Mesh

from genjax.checkpoint import Workdir
from genjax.parallel import peak_flops

_ATTEMPTS = "attempts.json"


def note(workdir: Workdir, event: str, step: int, seconds: float) -> float:
    """Notes in `attempts.json` that training `event` ("began" or "ended") at `step`.

    `seconds`: the clock's, since 1970. Returns those at which the run would have begun first if
    nothing had lain between an end as planned and the next beginning.
    """
    events = workdir.read_json(_ATTEMPTS) if workdir.exists(_ATTEMPTS) else []
    events.append({"event": event, "step": step, "time": seconds})
    workdir.write(_ATTEMPTS, json.dumps(events).encode())
    pairs = itertools.pairwise(events)
    return events[0]["time"] + sum(b["time"] - a["time"] for a, b in pairs if a["event"] == "ended")


class Chrono:
    """Seconds spent on training, without what happens inside `pause`; `past` counts as spent."""

    def __init__(self, past: float = 0.0):
        self._past, self._start, self._paused = past, time.monotonic(), 0.0

    def seconds(self) -> float:
        return self._past + time.monotonic() - self._start - self._paused

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - begin


class Throughput:
    """Rates between two calls of `measure`. `flops_per_image`: forward and backward.

    `began`: when the run was first begun, as `note` returns it. Goodput is the time of steps that
    were kept over all time since. The time of steps that were lost with a process is not in
    `chrono`, for a run that resumes takes its past from the checkpoint.
    """

    def __init__(
        self,
        chrono: Chrono,
        images: int,
        total_images: int,
        flops_per_image: float,
        mesh: Mesh,
        began: float,
    ):
        self._chrono, self._total, self._flops = chrono, total_images, flops_per_image
        self._last, self._began = (images, chrono.seconds()), began
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        self._peak = peak * mesh.size if peak else None

    def measure(self, images: int) -> dict[str, float]:
        """Returns images_per_second, model_tflops (a second, all devices), mfu, eta_seconds and
        goodput (0 to 1)."""
        seconds = self._chrono.seconds()
        before, since = self._last
        if images == before or seconds <= since:
            return {}
        self._last = images, seconds
        rate = (images - before) / (seconds - since)
        out = {"images_per_second": rate, "model_tflops": rate * self._flops / 1e12}
        if self._peak:
            out["mfu"] = rate * self._flops / self._peak
        out["eta_seconds"] = max(self._total - images, 0) / rate
        out["goodput"] = seconds / (time.time() - self._began)
        return out
