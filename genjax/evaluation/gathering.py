"""What metrics need to know of a set of images: features, their statistics, logits.

One pass over the images, on the devices of all processes, resumed where a killed one stopped.
Statistics of references are made once and kept.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genjax.core.errors import UserError
from genjax.evaluation import statistics
from genjax.evaluation.extractors import Extractor, spread_over_devices, whole_batch
from genjax.evaluation.images import ImageSet
from genjax.evaluation.metrics import Evidence
from genjax.evaluation.statistics import Accumulator, Statistics
from genjax.evaluation.store import Arrays, Store, Work
from genjax.parallel import to_host

_ROWS = ("features", "logits", "codes")
FROM_NETWORK = frozenset({"statistics", "spatial", *_ROWS})
_MOMENTS = {"statistics": "features", "spatial": "spatial"}  # wanted -> output of the network


@dataclasses.dataclass(frozen=True)
class Reference:
    """The real data: images, or statistics that were made before (a file in the field's layout).

    Where a file gives both, statistics are taken from it and the rest is of its images, as ADM's
    reference files are used; `spatial` are the statistics for sFID.
    """

    name: str
    images: ImageSet | None = None
    statistics: Statistics | None = None
    spatial: Statistics | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure. `batch`: images at a time through a feature network, on all devices.

    `cache`: folder for what is made of references (None: nothing is kept). `store`: where the work
    on the samples is kept. `save`: file for the statistics of the samples. `note`: a clause for
    every protocol string, such as the label rule. `target`: the config's target, {} if there is
    none. `advance(what, total, n)` is told of progress.
    """

    seed: int = 0
    batch: int = 256
    cache: Path | None = None
    store: Store = dataclasses.field(default_factory=Store)
    save: Path | None = None
    note: str = ""
    target: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    advance: Callable[[str, int, int], None] = lambda what, total, n: None


def gather(
    images: ImageSet,
    network: Extractor | None,
    wanted: frozenset[str],
    settings: Settings,
    work: Work | None = None,
) -> Evidence:
    """Returns what the metrics want to know of a set, features in one pass over its images.

    `work`: where that is kept (None: in the settings' store). What is found there is not done
    again.
    """
    if network is None or not wanted & FROM_NETWORK:
        return Evidence(images.name, images.size, images)
    kept = [k for k in _ROWS if k in wanted]
    work = work or _work(settings.store, images, network, wanted)
    moments = {k: Accumulator(sums=_unpacked(work.sums, k)) for k in _MOMENTS if k in wanted}
    outputs = [*(_MOMENTS[k] for k in moments), *kept]

    def sums() -> Arrays:
        return {f"{k}.{name}": v for k, a in moments.items() for name, v in a.sums().items()}

    settings.advance(f"features of {images.name}", images.size, work.done)
    rows = whole_batch(settings.batch)
    while work.done < images.size:
        count = min(rows, images.size - work.done)
        index = np.minimum(np.arange(work.done, work.done + rows), images.size - 1)
        out = network(spread_over_devices(images.read, index, images.shape))  # pyright: ignore[reportArgumentType]
        for key in outputs:
            if key not in out:
                raise UserError(f"--extractor: {network.name} has no {key}; use another network")
        mask = np.arange(rows) < count
        for key, accumulator in moments.items():
            accumulator.add(out[_MOMENTS[key]], mask)
        held = {k: to_host(out[k])[:count] for k in kept}
        for key, part in held.items():
            if not np.isfinite(part).all():
                raise UserError(f"{images.name}: the {key} of {network.name} are not finite")
        work.add(count, held, sums)
        settings.advance(f"features of {images.name}", images.size, count)
    work.finish(sums())
    made = {key: a.result(_made(images.name, network, key)) for key, a in moments.items()}
    found = work.rows(*kept)
    return Evidence(
        images.name,
        images.size,
        images,
        made.get("statistics"),
        found.get("features"),
        found.get("logits"),
        made.get("spatial"),
        found.get("codes"),
    )


def _work(store: Store, images: ImageSet, network: Extractor, wanted: frozenset[str]) -> Work:
    if store.folder is None:  # a fingerprint reads images
        return store.work("features")
    return store.work(
        "features",
        data=images.fingerprint,
        extractor=[network.name, network.hash, network.protocol],
        wanted=sorted(wanted & FROM_NETWORK),
    )


def _unpacked(sums: Arrays, kind: str) -> Arrays:
    """Returns the sums of one accumulator out of those of all."""
    return {k.removeprefix(f"{kind}."): v for k, v in sums.items() if k.startswith(f"{kind}.")}


def gather_reference(
    reference: Reference, network: Extractor | None, wanted: frozenset[str], settings: Settings
) -> Evidence:
    """Returns the reference's evidence; statistics from its file or the cache where possible."""
    images = reference.images
    found: dict[str, Statistics] = {}
    for key in _MOMENTS:
        held = getattr(reference, key)
        if held is not None and network is not None:
            _same_protocol(reference.name, held, network)
            found[key] = held
    n = next((s.n for s in (reference.statistics, reference.spatial) if s is not None), None)
    if images is None:
        return _with(Evidence(reference.name, n), found)
    rest = wanted - set(found)
    if network is None or not rest & FROM_NETWORK:
        return _with(Evidence(images.name, n or images.size, images), found)
    files = {}
    if settings.cache is not None:
        about = (images.fingerprint, network.name, network.hash, network.protocol)
        for key in rest & set(_MOMENTS):
            kind = () if key == "statistics" else (key,)
            files[key] = statistics.cache_file(settings.cache, *about, *kind)
        if not rest & FROM_NETWORK - set(files) and all(f.is_file() for f in files.values()):
            found |= {k: statistics.load(f) for k, f in files.items()}
            return _with(Evidence(images.name, n or images.size, images), found)
    work = _work(Store(settings.cache, settings.store.seconds), images, network, rest)
    evidence = gather(images, network, rest, settings, work)
    for key, file in files.items():
        if jax.process_index() == 0:
            statistics.save(file, getattr(evidence, key))
    if not rest & FROM_NETWORK - set(files):  # the statistics' files say it all
        work.remove()
    return _with(dataclasses.replace(evidence, n=n or images.size), found)


def _with(evidence: Evidence, found: Mapping[str, Statistics]) -> Evidence:
    return dataclasses.replace(
        evidence,
        statistics=found.get("statistics", evidence.statistics),
        spatial=found.get("spatial", evidence.spatial),
    )


def _made(name: str, network: Extractor, kind: str) -> dict[str, str]:
    """What a statistics file says of how it was made."""
    about = {
        "data": name,
        "extractor": network.name,
        "extractor_hash": network.hash,
        "input": network.protocol,
    }
    return about if kind == "statistics" else about | {"kind": kind}


def _same_protocol(name: str, given: Statistics, network: Extractor) -> None:
    """Refuses statistics of another network or input protocol; silent files are let through."""
    for key, ours in (("extractor_hash", network.hash), ("input", network.protocol)):
        theirs = given.protocol.get(key, ours)
        if theirs != ours:
            raise UserError(
                f"{name}: was made with {key} {theirs[:40]!r}, this evaluation uses {ours[:40]!r}; "
                "distances between the two mean nothing"
            )
