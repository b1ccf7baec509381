"""Metrics of samples against data: features, statistics, distances, and the runner that reports.

A new metric is an entry of METRICS, a new feature network an entry of EXTRACTORS; the runner
knows neither.
"""

from collections.abc import Callable
from typing import Any

from genjax.core.errors import UserError
from genjax.core.registry import Registry
from genjax.evaluation.density import MODEL, BitsPerDim, Density
from genjax.evaluation.extractors import Classifier, Extractor, describe_module
from genjax.evaluation.metrics import Frechet, LabelAgreement, Metric, Nearest, Spread
from genjax.evaluation.runner import Reference, Settings, evaluate, lines, write_json
from genjax.evaluation.shapes_score import ShapesRight

METRICS = Registry(
    "metric",
    {
        "fid": Frechet,
        "label_agreement": LabelAgreement,
        "spread": Spread,
        "nearest": Nearest,
        "bpd": BitsPerDim,
        "shapes": ShapesRight,
    },
)

LoadTask = Callable[[str], tuple[Any, Any]]


def open_classifier(argument: str, load_task: LoadTask) -> Extractor:
    """Returns the classifier of the workdir `argument`.

    `load_task(workdir) -> (task, parameters of its network)`; the task has `predict`, `model` and
    `image` (genjax.tasks.Classifier).
    """
    task, params = load_task(argument)
    if not hasattr(task, "predict"):
        raise UserError(
            f"--extractor: {argument} holds no classifier; train one with configs/classifier"
        )
    return Classifier(task.predict, params, task.image, describe_module(task.model))


EXTRACTORS: dict[str, Callable[[str, LoadTask], Extractor]] = {"classifier": open_classifier}


def open_extractor(spec: str, load_task: LoadTask) -> Extractor:
    """Returns the feature network of "NAME:ARGUMENT", such as "classifier:WORKDIR"."""
    name, colon, argument = spec.partition(":")
    if name not in EXTRACTORS or not (colon and argument):
        raise UserError(
            f"--extractor: {spec!r} is none; expected NAME:PATH with NAME one of "
            f"{sorted(EXTRACTORS)}, such as classifier:runs/classifier"
        )
    return EXTRACTORS[name](argument, load_task)


__all__ = [
    "EXTRACTORS",
    "METRICS",
    "MODEL",
    "Density",
    "Extractor",
    "Metric",
    "Reference",
    "Settings",
    "evaluate",
    "lines",
    "open_extractor",
    "write_json",
]
