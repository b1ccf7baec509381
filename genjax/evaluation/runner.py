"""Measures a set of samples against a reference and says exactly how.

The runner knows no metric and no feature network: it gathers what the metrics declare (features,
statistics, images), calls them, and writes each value with its protocol, its extractor and hash,
both N, the seed, the config's target and the same measurement of other sets (real held-out
images, noise) as a scale.
"""

import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genjax.core.errors import UserError
from genjax.evaluation import statistics
from genjax.evaluation.density import MODEL
from genjax.evaluation.gathering import Reference, Settings, gather, gather_reference
from genjax.evaluation.images import ImageSet
from genjax.evaluation.metrics import Evidence, Metric, Value

HELD = 10_000  # images that a reference file in ADM's layout holds
_MOMENTS = frozenset({"statistics", "spatial"})


def evaluate(
    samples: ImageSet | None,
    reference: Reference,
    metrics: Mapping[str, Metric],
    extractors: Mapping[str, Any],
    *,
    context: Sequence[ImageSet] = (),
    settings: Settings | None = None,
    known: MutableMapping[Any, Evidence] | None = None,
) -> dict[str, Any]:
    """Returns the report: {"metrics": {name: entry}, "samples", "n", "reference", "seed", ...}.

    `metrics`: name -> metric; `extractors`: what a metric's `extractor` says -> network. Every
    entry holds value, name (honest title), protocol, extractor, extractor_hash, n, reference,
    reference_n, seed, details, warnings, target, difference, and `context`: the values that the
    sets of `context` get. `samples` may be None where no metric reads them. `known` remembers what
    was gathered of the reference for calls with the same reference and metrics. Raises `UserError`
    for data that a metric cannot use.
    """
    settings, known = settings or Settings(), {} if known is None else known
    check(samples, reference, metrics, extractors)
    entries: dict[str, dict] = {}
    for role in dict.fromkeys(m.extractor for m in metrics.values()):
        group = {k: m for k, m in metrics.items() if m.extractor == role}
        network = None if role is None else extractors[role]
        wanted = frozenset().union(*(m.samples for m in group.values()))
        if role not in known:
            asked = frozenset().union(*(m.reference for m in group.values()))
            known[role] = gather_reference(reference, network, asked, settings)
        real = known[role]
        found, others = Evidence("none", None), []
        if samples is not None and wanted:
            found = gather(samples, network, wanted, settings)
            _save(found, settings)
            others = [_comparable(c, samples, settings.seed) for c in context]
            others = [gather(c, network, _possible(c, wanted), settings) for c in others]
        for name, metric in group.items():
            value = metric(found, real, network, settings.seed)
            entry = _entry(name, value, metric, samples, real, network, settings)
            entry["context"] = {
                other.name: _brief(metric(other, real, network, settings.seed), other)
                for other in others
                if metric.samples
                and metric.samples <= _possible(other.images, metric.samples)
                and ("pairs" not in metric.reference or other.n == real.n)
            }
            entries[name] = entry
    return {
        "metrics": {name: entries[name] for name in metrics},
        "samples": None if samples is None else samples.name,
        "n": None if samples is None else samples.size,
        "reference": reference.name,
        "seed": settings.seed,
        "target": dict(settings.target) or None,
        "warnings": [f"{k}: {w}" for k in metrics for w in entries[k]["warnings"]],
    }


def _save(found: Evidence, settings: Settings) -> None:
    """Writes the statistics of the samples, with images for precision where sFID's are there."""
    if settings.save is None or found.statistics is None or jax.process_index():
        return
    held = None
    if found.spatial is not None and found.images is not None:
        at = np.linspace(0, found.images.size - 1, min(found.images.size, HELD)).astype(int)
        held = found.images.read(at)
    statistics.save(settings.save, found.statistics, found.spatial, held)


def check_writable(path: str | Path, flag: str = "--json") -> None:
    """Raises `UserError` where the file of `flag` could not be written, before hours are spent."""
    path = Path(path)
    probe = path.with_name(f".{path.name}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag}: {path} cannot be written ({error.strerror})") from error


def write_json(path: str | Path, report: Mapping[str, Any]) -> None:
    """Writes the report whole or not at all; raises `UserError` where it cannot be written."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        part.replace(path)
    except OSError as error:
        raise UserError(f"--json: {path} cannot be written ({error.strerror})") from error


def lines(report: Mapping[str, Any]) -> list[str]:
    """Returns the report as text: a block a metric, warnings loud."""
    out = [f"images of {report['reference']}"]
    if report["samples"] is not None:
        out = [f"{report['n']} samples of {report['samples']} against {report['reference']}"]
    for entry in report["metrics"].values():
        error = entry["details"].get("standard_error")
        within = "" if error is None else f" +- {error:.2g} (standard error)"
        out.append(f"{entry['name']} = {entry['value']:.6g}{within}")
        for name, other in entry["context"].items():
            out.append(f"    {other['value']:.6g} for {name} (N = {other['n']})")
        if entry["difference"] is not None:
            out.append(f"    target {entry['target']:.6g}, difference {entry['difference']:+.6g}")
        elif entry["target_note"]:
            out.append(f"    {entry['target_note']}")
        out.append(f"    protocol: {entry['protocol']}")
        out += [f"    WARNING: {w}" for w in entry["warnings"]]
    return out


def check(
    samples: ImageSet | None,
    reference: Reference,
    metrics: Mapping[str, Metric],
    extractors: Mapping[str, Any],
) -> None:
    """Raises `UserError` where the metrics cannot be had of what is given."""
    if not metrics:
        raise UserError("--metrics: name at least one metric")
    for name, metric in metrics.items():
        if metric.extractor not in (None, MODEL) and metric.extractor not in extractors:
            raise UserError(
                f"--metrics: {name} needs a feature network; add --extractor inception (or "
                "classifier:WORKDIR, dinov2:SIZE, clip:SIZE)"
            )
        if samples is None and metric.samples:
            raise UserError(f"--metrics: {name} measures samples; give some")
        if samples is not None and "labels" in metric.samples and samples.labels is None:
            raise UserError(
                f"{samples.name}: has no labels, which {name} needs; add them (arr_1 or labels in "
                "an .npz, labels.txt in a folder)"
            )
        if samples is not None and "captions" in metric.samples and samples.captions is None:
            raise UserError(
                f"{samples.name}: has no captions, which {name} needs; add them (captions in an "
                ".npz, captions.txt with a line an image in a folder)"
            )
        held = {"statistics"} | ({"spatial"} if reference.spatial is not None else set())
        if reference.images is None and metric.reference - held:
            raise UserError(
                f"--reference: {name} needs the images themselves, {reference.name} holds "
                "statistics; give a data set or a folder"
            )
        if (
            samples is not None
            and "pairs" in metric.reference
            and reference.images is not None
            and reference.images.size != samples.size
        ):
            raise UserError(
                f"{samples.name}: {name} compares image i with reference image i, but there are "
                f"{samples.size} and {reference.images.size}; give as many in the same order"
            )
        if metric.extractor == MODEL and MODEL not in extractors:
            raise UserError(f"--metrics: {name} asks the model itself; it goes with --workdir")
    if samples is None:
        return
    if reference.images is not None and reference.images.shape != samples.shape:
        raise UserError(
            f"{samples.name}: images {list(samples.shape)} cannot be compared with those of "
            f"{reference.name}, {list(reference.images.shape)}; bring them to one size and channels"
        )
    wanted = frozenset().union(*(m.samples for m in metrics.values()))
    if wanted & _MOMENTS and samples.size < 2:
        raise UserError(f"{samples.name}: one image has no covariance; give more images")


def _comparable(other: ImageSet, samples: ImageSet, seed: int) -> ImageSet:
    """Returns as many images as there are samples, where the set has them: the bias is that of N.

    They are drawn at random, for data sets may be sorted by class.
    """
    if other.shape != samples.shape:
        raise UserError(
            f"{other.name}: images {list(other.shape)} are no scale for {list(samples.shape)}"
        )
    if other.size <= samples.size:
        return other
    chosen = np.random.default_rng(seed).choice(other.size, samples.size, replace=False)
    return other.take(np.sort(chosen))


def _possible(images: ImageSet | None, wanted: frozenset[str]) -> frozenset[str]:
    for field in ("labels", "captions"):
        if field in wanted and (images is None or getattr(images, field) is None):
            wanted = wanted - {field}
    return wanted


def _entry(
    name: str,
    value: Value,
    metric: Metric,
    samples: ImageSet | None,
    real: Evidence,
    network: Any,
    settings: Settings,
) -> dict[str, Any]:
    clauses = [value.protocol]
    if samples is not None and metric.samples:
        clauses += [samples.made, settings.note, f"N = {samples.size}"]
    warnings = list(value.warnings)
    if metric.reference:
        clauses.append(f"reference {real.name} (N = {real.n or 'unknown'})")
        if real.images is not None:
            clauses.append(real.images.made)
        elif real.statistics is not None and not real.statistics.protocol:
            warnings.append(f"{real.name} does not say with which network and protocol it was made")
    clauses.append(f"seed {settings.seed}")
    protocol = "; ".join(dict.fromkeys(c for c in clauses if c))
    target, difference, note = compare(settings.target, name, value, protocol)
    return {
        "value": value.value,
        "name": value.title,
        "protocol": protocol,
        "extractor": None if network is None else network.name,
        "extractor_hash": None if network is None else network.hash,
        "n": value.n if samples is None or not metric.samples else samples.size,
        "reference": real.name,
        "reference_n": real.n,
        "seed": settings.seed,
        "details": value.details,
        "warnings": warnings,
        "target": target,
        "difference": difference,
        "target_note": note,
    }


def compare(
    target: Mapping[str, Any], name: str, value: Value, protocol: str
) -> tuple[float | None, float | None, str]:
    """Returns (target, measured - target, note).

    Where the target is of another metric, or a clause of its protocol is not in ours, there is no
    difference but a note: numbers of different protocols are never compared silently. A target
    names a metric by its title, with the extractor's hash or without ("frechet[classifier]").
    "fid" is FID by the Inception network and is not claimed by other features.
    """
    aim = target.get("value")
    if aim is None:
        return None, None, ""
    metric = str(target.get("metric", ""))
    titles = {value.title, re.sub(r"-[0-9a-f]{8}\]", "]", value.title)}
    if metric not in titles and not (metric == name and value.title.startswith(name)):
        return aim, None, f"the target {aim:.6g} is of {metric!r}: not comparable"
    ours = {clause.strip() for clause in protocol.split(";")}
    wanted = [c.strip() for c in str(target.get("protocol", "")).split(";") if c.strip()]
    missing = [c for c in wanted if c not in ours]
    if missing:
        return aim, None, f"the target {aim:.6g} was measured otherwise ({missing[0]!r})"
    return aim, value.value - aim, ""


def _brief(value: Value, of: Evidence) -> dict[str, Any]:
    return {"value": value.value, "n": of.n, "warnings": list(value.warnings)}
