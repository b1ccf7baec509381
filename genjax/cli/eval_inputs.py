"""What `genjax eval` reads: feature networks, references, data sets, and the rules of labels."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import construct
from genjax.evaluation import Reference, files, images, statistics
from genjax.evaluation.store import IN_MEMORY, Store

LABEL_RULES = ("balanced", "uniform", "data")

# The other half of a data set with a split: real images that the reference has not seen.
HELDOUT = {
    "digits": "digits:test",
    "digits:train": "digits:test",
    "digits:test": "digits:train",
    "fashion_mnist": "fashion_mnist:test",
    "fashion_mnist:train": "fashion_mnist:test",
    "fashion_mnist:test": "fashion_mnist:train",
    "shapes": "shapes:heldout",
    "shapes:train": "shapes:heldout",
    "shapes:heldout": "shapes:train",
}


def load_classifier(workdir: str, flag: str = "--extractor") -> tuple[Any, Any]:
    """Returns (task, parameters) of a workdir of `genjax train`, averaged where it averages.

    The parameters are those of the network "model", or all by network where there is none.
    `flag` is the one that named it, for the `UserError` where nothing is there.
    """
    from genjax.checkpoint import Workdir
    from genjax.cli.schema import build_run, expand_run
    from genjax.cli.trained import default_ema, read_params
    from genjax.cli.workdir import read_config

    config = read_config(Workdir(workdir))
    if config is None:
        raise UserError(f"{flag}: {workdir}: no config.json there; give a trained classifier")
    trained = build_run(expand_run(config))
    params, _ = read_params(workdir, trained, default_ema(trained.ema))
    return trained.task, params.get("model", params)


def load_weights(format: str, paths: Sequence[Path], **fields: Any) -> tuple[Any, Any]:
    """Returns (module, variables) of public weights, which may lie in several files together."""
    from genjax import weights

    if len(paths) == 1:
        return weights.load(format, paths[0], **fields)
    tensors: dict[str, Any] = {}
    for file in paths:
        tensors |= weights.io.read_tensors(str(file))  # pyright: ignore[reportAttributeAccessIssue]
    return weights.load(format, tensors, **fields)


def weight_files_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns extractor -> files, of --weights [NAME=]FILE[,FILE]."""
    out = {}
    for given in args.weights:
        name, equals, named = given.partition("=")
        if not equals:
            name, named = args.extractor, given
        if not name:
            raise UserError(f"--weights: {given} is of no network; add --extractor or NAME=")
        out[name] = [f for f in named.split(",") if f]
    return out


def open_reference(spec: str, shape: tuple[int, ...], config: dict | None) -> Reference:
    """Returns the reference: an .npz of images or statistics, else a data set or a folder."""
    if spec.endswith(".npz"):
        keys = files.keys(spec)
        if "mu" in keys:
            held = images.open_samples(spec) if "arr_0" in keys else None
            spatial = statistics.load(spec, "_s") if "mu_s" in keys else None
            return Reference(spec, held, statistics.load(spec), spatial)
        return Reference(spec, images.open_samples(spec))
    if os.path.isdir(spec):
        spec = f"image_folder:{spec}"
    return Reference(spec, open_data(spec, shape, config))


def open_data(
    spec: str, shape: tuple[int, ...] | None, config: dict | None, prefix: str = ""
) -> images.ImageSet:
    """Returns a data set's images in 0..255 at `shape` (h, w, c; None: its own), in its own order.

    They pass the transforms of the config's stream of the same source (padding, crop), or else are
    scaled to cover h x w and cropped. Small sets are held in memory, others read when needed.
    """
    from genjax.data import SOURCES, StreamSettings, parse_source
    from genjax.data.loader import Loader

    choice = parse_source(spec)
    settings = StreamSettings()
    if shape is not None:
        settings = StreamSettings(image_size=(shape[0], shape[1]), channels=shape[2])
    for stream in (config or {}).get("data", {}).values():
        if stream["source"]["name"] == choice["name"]:
            kept = {k: stream[k] for k in ("image_size", "crop", "channels", "pad")}
            settings = construct(StreamSettings, kept)
    source = SOURCES.build(choice, "--reference").open()
    loader = Loader(source, settings, "reference", 0)
    count, levels = len(source), source.levels
    made = [] if levels == 256 else [f"grey levels 0..{levels - 1} as round(v 255/{levels - 1})"]
    raw = source[0]["image"].shape if "image" in source[0] else None
    if raw is None:
        raise UserError(f"{spec}: holds no images; name a data set of images")
    first = images.to_uint8(loader((0, 0))["image"], levels)
    if raw != first.shape:
        made.append(f"{'x'.join(map(str, raw))} brought to {'x'.join(map(str, first.shape))}")
    pool = ThreadPoolExecutor(16)

    def records(indices) -> Iterator[dict]:
        return pool.map(lambda i: loader((int(i), int(i))), indices)

    def read(indices) -> np.ndarray:
        return images.to_uint8(np.stack([r["image"] for r in records(indices)]), levels)

    def labels() -> np.ndarray | None:
        found = [r.get("label") for r in records(range(count))]
        return None if found[0] is None else np.asarray(found, np.int64)

    def captions() -> list[str] | None:
        found = [source.caption(i) for i in range(count)] if source.caption(0) is not None else []
        return [str(c).split("\n")[0] for c in found] or None

    name = prefix + spec
    if count * first.nbytes <= IN_MEMORY:
        found = images.of_arrays(name, read(range(count)), labels(), "; ".join(made))
    else:
        found = images.ImageSet(name, count, first.shape, read, labels, "; ".join(made))
    return found.with_captions(captions)


def labels_by_rule(
    rule: str, num: int, classes: int, reference: Reference, seed: int
) -> np.ndarray | None:
    """Returns int32 [num] labels by the rule; None for a model without classes.

    balanced: i mod classes; uniform: at random; data: a random one of the reference's labels.
    """
    if not classes:
        return None
    if rule == "balanced":
        return (np.arange(num) % classes).astype(np.int32)
    rng = np.random.default_rng(seed)
    if rule == "uniform":
        return rng.integers(0, classes, num).astype(np.int32)
    known = None if reference.images is None else reference.images.labels
    if known is None:
        raise UserError(
            f"--labels data: {reference.name} has no labels; choose balanced or uniform"
        )
    return known[rng.integers(0, len(known), num)].astype(np.int32)


def statistics_cache(given: str | None) -> Path | None:
    """Returns the folder of reference statistics: the user's cache, `given`, or None for "none"."""
    if given == "none":
        return None
    if given:
        return Path(given)
    return _user_cache() / "statistics"


def store_of(progress: str | None, workdir: str | None, seconds: float) -> Store:
    """Returns where the work on the samples is kept: `progress`, or nowhere for "none".

    Without it, in eval/ of a local workdir, else in the user's cache. Raises `UserError` where
    nothing can be written there.
    """
    if progress == "none":
        return Store()
    if progress:
        folder = Path(progress)
    elif workdir and "://" not in workdir:
        folder = Path(workdir) / "eval"
    else:
        folder = _user_cache() / "evaluations"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--progress: {folder} cannot be written ({error.strerror})") from error
    return Store(folder, seconds)


def how_drawn(
    sampler: Any,
    labels: np.ndarray | None,
    rule: str,
    evaluations: str,
    weights: str,
    captions: Sequence[str] | None = None,
) -> str:
    """Returns the clauses of a protocol that say how samples were drawn, by labels or captions."""
    weight = getattr(sampler.guidance, "weight", None)
    given = "no labels" if labels is None else f"labels {rule}"
    clauses = [
        given if captions is None else f"{len(captions)} captions",
        f"{type(sampler.solver).__name__}",
        f"NFE {evaluations}",
        "no guidance" if weight is None else f"guidance {weight:g}",
        f"weights {weights}",
    ]
    return "; ".join(clauses)


def target_of(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the config's target, {} where it names no value."""
    target = (config or {}).get("target") or {}
    return dict(target) if target.get("value") is not None else {}


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "genjax"
