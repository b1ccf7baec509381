"""How fast training goes: time without pauses, images a second, model FLOPs and MFU."""

import contextlib
import time
from collections.abc import Iterator

from jax.sharding import Mesh

from genjax.parallel import peak_flops


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
    """Rates between two calls of `measure`. `flops_per_image`: forward and backward."""

    def __init__(
        self,
        chrono: Chrono,
        images: int,
        total_images: int,
        flops_per_image: float,
        mesh: Mesh,
    ):
        self._chrono, self._total, self._flops = chrono, total_images, flops_per_image
        self._last = images, chrono.seconds()
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        self._peak = peak * mesh.size if peak else None

    def measure(self, images: int) -> dict[str, float]:
        """Returns images_per_second, model_tflops (a second, all devices), mfu, eta_seconds."""
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
        return out
