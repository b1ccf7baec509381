"""What a search has measured, on disk: a search that was cut off goes on where it was."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from genjax.checkpoint import Workdir

_FILE = "candidates.jsonl"


@dataclasses.dataclass
class Journal:
    """The values of candidates, a line each in `candidates.jsonl` of a workdir.

    Every process of a run reads it; the one that `writes` adds to it after each candidate.
    """

    workdir: Workdir
    writes: bool = True

    def __post_init__(self):
        self.values: dict[str, float] = {}
        if self.workdir.exists(_FILE):
            for line in self.workdir.read(_FILE).decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                key = json.dumps(entry["candidate"])
                self.values[key] = float("nan") if value is None else value

    def remember(self, fitness: Callable[[Any], float]) -> Callable[[Any], float]:
        """Returns `fitness` that asks no candidate twice, in this process or an earlier one."""

        def remembered(candidate: Any) -> float:
            key = json.dumps(candidate)
            if key not in self.values:
                self.values[key] = float(fitness(candidate))
                if self.writes:
                    self.workdir.write(_FILE, self._lines().encode())
            return self.values[key]

        return remembered

    def _lines(self) -> str:
        entries = (
            {"candidate": json.loads(key), "value": value if value == value else None}
            for key, value in self.values.items()
        )
        return "".join(json.dumps(entry) + "\n" for entry in entries)
