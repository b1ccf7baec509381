"""Who hangs: every process of a run says that it lives and where it is; process 0 judges.

Where one process of many stops, the others wait for it in a collective, for ever. JAX ends a run
100 s after the last sign of a process that is dead or frozen, but not one whose process lives and
waits for a disk, nor one of whose processes has failed while the others wait for it. Here a thread
of every process posts beats to JAX's coordination service; that of process 0 reads them, and when
somebody hangs or fails, all print who and end: exit code 1, to be started again from the last
checkpoint.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from genjax.core.errors import Diverged
from genjax.parallel import coordination

EXIT_CODE = 1
# JAX speaks after 100 s, in many lines and without the host's name: this is before it.
SILENCE = 80.0
DATA, STEP, ASIDE, DONE = "waiting for data", "in the step", "beside the steps", "done"
_BEATS, _VERDICT = "genjax/beats/", "genjax/verdict/"


@dataclasses.dataclass(frozen=True)
class Pulse:
    """What is known of a process: where it said it was (host, training step, what it does), and
    for how many seconds it has said nothing (`silent`) or nothing new (`still`)."""

    host: str
    step: int
    doing: str
    silent: float
    still: float


def judge(pulses: Sequence[Pulse], limit: float) -> str | None:
    """Returns a line that names the process that hangs, or None. `pulses`: by process index.

    A process hangs that has been silent for `limit` seconds (at most `SILENCE`), and, when none has
    moved for `limit`, the one that is behind the others. Compiling, saving and hooks take the time
    that they take.
    """
    mute = min(limit, SILENCE)
    for i, p in enumerate(pulses):
        if p.doing != DONE and p.silent > mute:
            return (
                f"process {i} (host {p.host}) hangs or is dead: no sign of it for {mute:g} s; "
                f"it was {p.doing}, step {p.step:,}"
            )
    if any(p.doing not in (DATA, STEP) or p.still <= limit for p in pulses):
        return None
    places = [(p.step, p.doing != DATA) for p in pulses]
    behind = [i for i, place in enumerate(places) if place == min(places)]
    if len(behind) == len(places) > 1:
        p = pulses[0]
        return f"all {len(pulses)} processes hang for {limit:g} s {p.doing}, step {p.step:,}"
    names = ", ".join(f"process {i} (host {pulses[i].host})" for i in behind)
    p = pulses[behind[0]]
    return f"{names} hangs: {limit:g} s {p.doing}, step {p.step:,}"


class Heartbeat:
    """Within its block a run of which a process hangs for `limit` seconds ends (0: never).

    The main thread tells by `at` where it is. Time counts in ticks of the watching thread, so that
    a run that was suspended as a whole goes on.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self._tick = min(limit, SILENCE) / 16
        self._me, self._count = jax.process_index(), jax.process_count()
        self._client: Any = coordination.client() if self._count > 1 else None
        self._place: tuple[int, str] = (0, ASIDE)
        self._ended = threading.Event()
        self._ticks = 0
        self._answered = 0  # the tick at which the coordination service last answered
        self._heard: dict[int, tuple[dict, int, int]] = {}  # beat, ticks of its last sign and move
        self._verdict: str | None = None
        self._threads: list[threading.Thread] = []

    def at(self, step: int, doing: str) -> None:
        """Says where the main thread is."""
        self._place = (step, doing)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens in this block may take any time."""
        step, doing = self._place
        self._place = (step, ASIDE)
        try:
            yield
        finally:
            self._place = (step, doing)

    def __enter__(self) -> "Heartbeat":
        if self._limit:
            for work in (self._talk, self._watch):
                self._threads.append(threading.Thread(target=work, daemon=True))
                self._threads[-1].start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(self._tick)
        # The others may still be at work, or wait for this one for ever. Divergence all see alike.
        if self._limit and self._client and not isinstance(error, Diverged):
            with contextlib.suppress(Exception):
                if isinstance(error, Exception):
                    text = " ".join(f"{kind.__name__}: {error}".split())[:300]
                    self._tell(f"process {self._me} (host {socket.gethostname()}) failed: {text}")
                else:
                    self._place = (self._place[0], DONE)
                    self._exchange(-1)

    def _talk(self) -> None:
        number = 0
        while not self._ended.wait(self._tick):
            number += 1
            with contextlib.suppress(Exception):  # no answer: `_watch` sees it
                self._exchange(number)
                self._answered = self._ticks

    def _exchange(self, number: int) -> None:
        """Posts a beat; reads what was found, and on process 0 the beats of all."""
        step, doing = self._place
        beat = {"step": step, "doing": doing, "host": socket.gethostname(), "number": number}
        if self._client is None:
            self._hear(self._me, beat)
            return
        self._client.key_value_set(f"{_BEATS}{self._me}", json.dumps(beat), allow_overwrite=True)
        for _, line in self._client.key_value_dir_get(_VERDICT):
            self._verdict = line
        if self._me:
            return
        for key, text in self._client.key_value_dir_get(_BEATS):
            self._hear(int(key.rpartition("/")[2]), json.loads(text))

    def _hear(self, process: int, beat: dict) -> None:
        now = self._ticks
        before, signed, moved = self._heard.get(process, ({}, now, now))
        place = lambda b: (b.get("step"), b.get("doing"))  # noqa: E731
        self._heard[process] = (
            beat,
            signed if beat["number"] == before.get("number") else now,
            moved if place(beat) == place(before) else now,
        )

    def _watch(self) -> None:
        while not self._ended.wait(self._tick):
            self._ticks += 1
            found = self._verdict or (self._judge_coordinator() if self._me else self._judge_all())
            if found and not self._ended.is_set():
                self._end(found)

    def _judge_all(self) -> str | None:
        now, pulses = self._ticks, []
        for i in range(self._count):
            if i not in self._heard:  # it has not begun: JAX watches over that
                return None
            beat, signed, moved = self._heard[i]
            pulses.append(
                Pulse(
                    beat["host"],
                    beat["step"],
                    beat["doing"],
                    (now - signed) * self._tick,
                    (now - moved) * self._tick,
                )
            )
        return judge(pulses, self._limit)

    def _judge_coordinator(self) -> str | None:
        mute = min(self._limit, SILENCE)
        if (self._ticks - self._answered) * self._tick <= mute:
            return None
        host = coordination.coordinator()
        return f"process 0 (host {host}) hangs or is dead: no answer for {mute:g} s"

    def _tell(self, line: str) -> None:
        self._client.key_value_set(f"{_VERDICT}{self._me}", line, allow_overwrite=True)

    def _end(self, line: str) -> None:
        if self._client and not self._me:
            with contextlib.suppress(Exception):
                self._tell(line)
        line = f"genjax: {line}; the run ends, to be started again (config.train.heartbeat)"
        print(line, file=sys.stderr, flush=True)
        # Process 0 holds the coordination service, at whose end JAX ends the others: time to read.
        time.sleep(3 * self._tick if self._client and not self._me else 0)
        os._exit(EXIT_CODE)  # the main thread waits where no exception reaches it
