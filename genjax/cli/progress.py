"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time


class Progress:
    """Context manager: `advance(n)` after every n units of `total`."""

    def __init__(self, what: str, total: int, every_seconds: float = 10.0):
        self.what, self.total, self.every = what, total, every_seconds
        self.done = 0

    def __enter__(self) -> "Progress":
        self._started = self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich import progress as rich

            self._bar = rich.Progress(
                rich.TextColumn(self.what),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[rate]}"),
                rich.TimeRemainingColumn(),
            )
            self._bar.start()
            self._id = self._bar.add_task(self.what, total=self.total, rate="")
        return self

    def advance(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._id, completed=self.done, rate=f"{rate:.1f}/s")
        elif now - self._printed > self.every:
            self._printed = now
            left = (self.total - self.done) / rate
            print(
                f"{self.done}/{self.total} {self.what}, {rate:.1f}/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()
