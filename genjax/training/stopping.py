"""Stopping on SIGTERM: at the end of a step, and at the same one on every process."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143  # 128 + SIGTERM: restart policies try such a run again


class Stopping:
    """Within its block a SIGTERM is noticed instead of ending the process.

    One process notes the signal by itself. Of several, any one may get it: JAX's coordination
    service then picks a step that none has reached yet, which costs no collective in other steps.
    """

    def __init__(self):
        self._noticed = False
        self._previous = None
        self._alone = jax.process_count() == 1

    def __enter__(self) -> "Stopping":
        if self._alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._noticed = True

    def __exit__(self, *error) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def wanted(self, step: int) -> bool:
        """Says whether to stop after `step`; all processes ask at every step."""
        if self._alone:
            return self._noticed
        return multihost_utils.reached_preemption_sync_point(step)
