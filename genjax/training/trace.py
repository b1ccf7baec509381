"""A profile of some steps, for xprof or TensorBoard, on request."""

import tempfile
from pathlib import Path

import jax

from genjax.checkpoint import Workdir


class Trace:
    """Records the steps between two counts of images (`span`: (from, to), or empty: none).

    The trace lies in trace/; every process records its own devices.
    """

    def __init__(self, workdir: Workdir, span: tuple[int, ...]):
        self._workdir, self._span = workdir, span
        self._folder: str | None = None

    def before_step(self, images: int) -> None:
        """Starts or ends the trace where it is time to."""
        if not self._span:
            return
        inside = self._span[0] <= images < self._span[1]
        if inside and self._folder is None:
            local = self._workdir.local
            self._folder = self._workdir.at("trace") if local else tempfile.mkdtemp()
            jax.profiler.start_trace(self._folder)
        elif not inside:
            self.close()

    def close(self) -> None:
        if self._folder is None:
            return
        jax.profiler.stop_trace()
        root, self._folder, self._span = Path(self._folder), None, ()
        if not self._workdir.local:
            for path in root.rglob("*"):
                if path.is_file():
                    name = path.relative_to(root).as_posix()
                    self._workdir.write(f"trace/{name}", path.read_bytes())
