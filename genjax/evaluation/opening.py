"""From "NAME:ARGUMENT" on the command line to a feature network with its weights."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genjax.core.errors import UserError
from genjax.evaluation import weight_files
from genjax.evaluation.extractors import Classifier, Codes, describe_module
from genjax.models.inception import PROTOCOLS

LoadTask = Callable[[str], tuple[Any, Any]]
LoadWeights = Callable[..., tuple[Any, Any]]
SIZES: Mapping[str, tuple[str, ...]] = {
    "dinov2": ("s", "b", "l", "g"),
    "clip": ("b32", "b16", "l14", "l14-336"),
    "lpips": ("alex", "vgg", "squeeze"),
}


@dataclasses.dataclass(frozen=True)
class Tools:
    """What opening takes, handed in by the command line.

    `load_task(workdir) -> (task, parameters)`; a classifier's are those of its network, and the
    task has `predict`, `model` and `image`; a tokenizer's are by network, and it has `encode`.
    `load_weights(format, [files], **fields) -> (module, variables)`. `files`: extractor (whole or
    the part before the colon) -> weight files that the user named. `folder`: where the others lie.
    """

    load_task: LoadTask
    load_weights: LoadWeights | None = None
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    folder: Path = dataclasses.field(default_factory=weight_files.default_folder)

    def weights(self, spec: str, key: str, **fields: Any) -> tuple[Any, Any, list[Path]]:
        """Returns (module, variables, files) of the network `key` of the table of files."""
        entry = weight_files.NETWORKS[key]
        given = self.files.get(spec) or self.files.get(spec.partition(":")[0]) or ()
        files = weight_files.find(entry.files, spec, given, self.folder)
        if self.load_weights is None:
            raise UserError(f"--extractor {spec}: cannot be used here; take a classifier:WORKDIR")
        return *self.load_weights(entry.format, files, **fields), files


def open_classifier(spec: str, argument: str, tools: Tools) -> Any:
    """Returns the classifier of the workdir `argument`."""
    if not argument:
        raise _unknown(spec)
    task, params = tools.load_task(argument)
    if not hasattr(task, "predict"):
        raise UserError(
            f"--extractor: {argument} holds no classifier; train one with configs/classifier"
        )
    return Classifier(task.predict, params, task.image, describe_module(task.model))


def open_tokenizer(spec: str, argument: str, tools: Tools) -> Any:
    """Returns the tokenizer of the workdir `argument`."""
    if not argument:
        raise _unknown(spec)
    task, params = tools.load_task(argument)
    if not hasattr(task, "encode"):
        raise UserError(
            f"--extractor: {argument} holds no tokenizer; train one with configs/vit_vqgan"
        )
    size, about = task.model.quantizer.size, describe_module(task.model)
    return Codes(task.encode, params, task.image, size, about)


def open_inception(spec: str, argument: str, tools: Tools) -> Any:
    """Returns FID's network; `argument` is the protocol, pytorch-fid where it is empty."""
    from genjax.evaluation.networks import inception_network

    protocol = argument or "pytorch-fid"
    if protocol not in PROTOCOLS:
        raise UserError(
            f"--extractor: {protocol!r} is no protocol of FID; choose one of {', '.join(PROTOCOLS)}"
        )
    module, variables, _ = tools.weights(spec, "inception", protocol=protocol)
    return inception_network(protocol, module, variables)


def open_dinov2(spec: str, argument: str, tools: Tools) -> Any:
    """Returns DINOv2; `argument` is the size."""
    from genjax.evaluation.networks import dinov2_network

    module, variables, _ = tools.weights(spec, _sized(spec, "dinov2", argument))
    return dinov2_network(argument, module, variables)


def open_clip(spec: str, argument: str, tools: Tools) -> Any:
    """Returns CLIP; `argument` is the size. The tokenizer's merges are optional here."""
    from genjax.evaluation.networks import ClipNetwork

    module, variables, files = tools.weights(spec, _sized(spec, "clip", argument))
    beside = files[0] if files[0].is_dir() else files[0].parent
    places = (beside / "merges.txt", tools.folder / weight_files.MERGES.name)
    merges = next((str(p) for p in places if p.is_file()), None)
    return ClipNetwork(argument, module, variables, merges)


def open_lpips(spec: str, argument: str, tools: Tools) -> Any:
    """Returns LPIPS; `argument` is the backbone."""
    from genjax.evaluation.networks import LpipsNetwork

    module, variables, _ = tools.weights(spec, _sized(spec, "lpips", argument), net=argument)
    return LpipsNetwork(module, variables)


EXTRACTORS: dict[str, Callable[[str, str, Tools], Any]] = {
    "classifier": open_classifier,
    "tokenizer": open_tokenizer,
    "inception": open_inception,
    "dinov2": open_dinov2,
    "clip": open_clip,
    "lpips": open_lpips,
}


def open_extractor(spec: str, tools: Tools) -> Any:
    """Returns the feature network of "NAME" or "NAME:ARGUMENT", such as "classifier:WORKDIR".

    Raises `UserError` for unknown names and for weights that are missing or damaged.
    """
    name, _, argument = spec.partition(":")
    if name not in EXTRACTORS:
        raise _unknown(spec)
    return EXTRACTORS[name](spec, argument, tools)


def _sized(spec: str, name: str, size: str) -> str:
    if size not in SIZES[name]:
        choices = ", ".join(f"{name}:{s}" for s in SIZES[name])
        raise UserError(f"--extractor: {spec!r} is none; choose one of {choices}")
    return f"{name}:{size}"


def _unknown(spec: str) -> UserError:
    return UserError(
        f"--extractor: {spec!r} is none; expected inception[:PROTOCOL], dinov2:SIZE, clip:SIZE, "
        "tokenizer:WORKDIR or classifier:WORKDIR, such as classifier:runs/classifier"
    )
