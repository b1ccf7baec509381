"""Metrics of samples against data: features, statistics, distances, and the runner that reports.

A new metric is an entry of METRICS, a new feature network an entry of EXTRACTORS; the runner
knows neither.
"""

import dataclasses

from genjax.core.registry import Registry
from genjax.evaluation import feature_metrics, pair_metrics
from genjax.evaluation.codebook import CodebookUsage
from genjax.evaluation.density import MODEL, BitsPerDim, Density
from genjax.evaluation.extractors import Extractor
from genjax.evaluation.gathering import Reference, Settings
from genjax.evaluation.metrics import Frechet, LabelAgreement, Metric, Nearest, Spread
from genjax.evaluation.opening import EXTRACTORS, Tools, open_extractor
from genjax.evaluation.runner import evaluate, lines, write_json
from genjax.evaluation.shapes_score import ShapesRight
from genjax.evaluation.store import Store

METRICS = Registry(
    "metric",
    {
        "fid": Frechet,
        "fd_dinov2": feature_metrics.FrechetDino,
        "rfid": feature_metrics.Reconstruction,
        "sfid": feature_metrics.Spatial,
        "fid_infinity": feature_metrics.Infinity,
        "kid": feature_metrics.KernelDistance,
        "cmmd": feature_metrics.Cmmd,
        "is": feature_metrics.Inception,
        "precision": feature_metrics.Precision,
        "recall": feature_metrics.Recall,
        "density": feature_metrics.Density,
        "coverage": feature_metrics.Coverage,
        "clip_score": pair_metrics.ClipScore,
        "psnr": pair_metrics.Psnr,
        "ssim": pair_metrics.Ssim,
        "ms_ssim": pair_metrics.MsSsim,
        "lpips": pair_metrics.Lpips,
        "label_agreement": LabelAgreement,
        "spread": Spread,
        "nearest": Nearest,
        "bpd": BitsPerDim,
        "shapes": ShapesRight,
        "codebook": CodebookUsage,
    },
)


def with_extractor(metric: Metric, given: str | None) -> Metric:
    """Returns the metric with the command line's extractor where it is of the family it names.

    A metric whose paper names a network (FD-DINOv2, CMMD, LPIPS) keeps it unless another size of
    the same one is given.
    """
    own = metric.extractor
    if own and given and own.partition(":")[0] == given.partition(":")[0]:
        return dataclasses.replace(metric, extractor=given)  # pyright: ignore[reportArgumentType]
    return metric


__all__ = [
    "EXTRACTORS",
    "METRICS",
    "MODEL",
    "Density",
    "Extractor",
    "Metric",
    "Reference",
    "Settings",
    "Store",
    "Tools",
    "evaluate",
    "lines",
    "open_extractor",
    "with_extractor",
    "write_json",
]
