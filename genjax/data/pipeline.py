"""Streams of batches on grain: shuffled, sharded by process, and continued from one integer.

Element j of the global stream of a name is a function of (seed, name, j) alone: epoch j // n, a
permutation of that epoch's own, and a coin for the flip. Batch k after `start` holds the elements
start + k B ... start + (k + 1) B - 1, and process p of P takes the p-th of its P equal pieces.
So the position is one integer, the images seen, whatever the process count.
"""

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.data.array_record import Record
from genjax.data.loader import REPLACED, Loader, Spec
from genjax.data.settings import StreamSettings
from genjax.data.sources import Source

Batch = dict[str, np.ndarray]

_ENDLESS = 2**53
_log = logging.getLogger("genjax")


class Stream(Iterator[Batch]):
    """Batches of this process: dicts of arrays [batch / processes, ...], captions as str arrays.

    `source`: the opened source (levels, classes); `spec`: field -> (shape, dtype) of an element;
    `position`: images of the global stream consumed so far. What had to be replaced is counted, and
    named in the log when first met. Call `close` when done.
    """

    def __init__(self, source: Source, spec: Spec, batches: Any, batch: int, start: int):
        self.source, self.spec, self.position = source, spec, start
        self._batches: Any = batches
        self._batch = batch
        self._replaced: Counter[int] = Counter()

    def __next__(self) -> Batch:
        batch = next(self._batches)
        for i in batch.pop(REPLACED).tolist():
            if i >= 0:
                self._replaced[i] += 1
                if self._replaced[i] == 1:
                    bad = len(self._replaced)
                    name = self.source.describe(i)
                    _log.warning("corrupt and replaced by another: %s (%d so far)", name, bad)
        self.position += self._batch
        return batch

    def report(self) -> dict[str, Any]:
        """Returns {"replaced": images replaced so far here, "names": {name of bad one: times}}."""
        names = {self.source.describe(i): count for i, count in self._replaced.items()}
        return {"replaced": self._replaced.total(), "names": names}

    def close(self) -> None:
        """Stops the threads and processes that read ahead."""
        self._batches.close()
        self._batches = iter(())  # lets grain's shared memory go before the interpreter does


def open_stream(
    settings: StreamSettings,
    *,
    name: str = "main",
    seed: int = 0,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    source: Source | None = None,
) -> Stream:
    """Returns the endless stream, `start` images into it.

    `source`: an opened one in place of the settings' own. Raises `UserError` if the source cannot
    be read, the batch does not divide by the processes, or all elements tried are corrupt.
    """
    check_divides(settings.batch, process_count, f"data.{name}.batch")
    opened: Source = settings.source.open() if source is None else source
    loader = Loader(opened, settings, name, stream_seed(seed, name))
    order = Order(len(opened), loader.seed if settings.shuffle else None)
    rows = Rows(order, _ENDLESS, settings.batch, start, process_index, process_count)
    batches = _batches(rows, loader, settings)
    return Stream(opened, loader.spec, batches, settings.batch, start)


def open_once(
    settings: StreamSettings,
    *,
    name: str = "main",
    process_index: int = 0,
    process_count: int = 1,
    source: Source | None = None,
) -> Stream:
    """Returns a stream of every element once, in the order of the source, never flipped.

    The last batch is filled up with repetitions; the added field `mask` [b] (bool) is False there.
    """
    check_divides(settings.batch, process_count, f"data.{name}.batch")
    opened: Source = settings.source.open() if source is None else source
    settings = dataclasses.replace(settings, flip=False, shuffle=False)
    n = len(opened)
    loader = Loader(opened, settings, name, 0, mask_from=n)
    count = -(-n // settings.batch) * settings.batch
    rows = Rows(Order(n, None), count, settings.batch, 0, process_index, process_count)
    return Stream(opened, loader.spec, _batches(rows, loader, settings), settings.batch, 0)


def check_divides(batch: int, process_count: int, key: str) -> None:
    """Raises `UserError` naming `key` unless every process gets the same share of the batch."""
    if batch % process_count:
        raise UserError(f"{key}: {batch} does not divide by {process_count} processes; change it")


def stream_seed(seed: int, name: str) -> int:
    """Returns a 32-bit seed for a stream's order and coins.

    Hashed, since grain adds the epoch to it: seeds s and s + 1 would share all epochs but one.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest())


class Order:
    """Element j of the endless stream -> index in the source of n elements (grain's shuffle)."""

    def __init__(self, n: int, seed: int | None):
        self._n = n
        self._shuffled: Any = None
        if seed is not None:
            import grain

            self._shuffled = grain.MapDataset.range(n).shuffle(seed=seed)

    def __getitem__(self, j: int) -> int:
        return j % self._n if self._shuffled is None else int(self._shuffled[j])


class Rows:
    """The (j, index) pairs of one process, as a random-access sequence for grain."""

    def __init__(
        self, order: Order, count: int, batch: int, start: int, process_index: int, processes: int
    ):
        self._order, self._batch, self._local = order, batch, batch // processes
        self._first = start + process_index * self._local
        self._len = count // processes

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, i: int) -> tuple[int, int]:
        k, row = divmod(i, self._local)
        j = self._first + k * self._batch + row
        return j, self._order[j]


def _stack(records: Sequence[Record]) -> Batch:
    return {key: np.stack([r[key] for r in records]) for key in records[0]}


def _batches(rows: Rows, loader: Loader, settings: StreamSettings):
    import grain

    threads = settings.threads or min(os.cpu_count() or 1, 16)
    batches = (
        grain.MapDataset.source(rows)  # pyright: ignore[reportArgumentType]
        .map(loader)
        .batch(rows._local, drop_remainder=True, batch_fn=_stack)
        # Whole batches are read by one thread each; grain hands them out in order.
        .to_iter_dataset(grain.ReadOptions(threads, max(settings.prefetch, threads)))
    )
    if settings.workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain asks its own flags, which genjax does not parse
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=settings.workers))
    return iter(batches)
