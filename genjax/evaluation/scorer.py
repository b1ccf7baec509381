"""One metric of many sets of samples against one reference, whose side is worked out once."""

from typing import Any

from genjax.evaluation.gathering import Reference, Settings, gather, gather_reference
from genjax.evaluation.images import ImageSet
from genjax.evaluation.metrics import Metric, Value
from genjax.evaluation.runner import check


class Scorer:
    """Calling it with samples returns the metric's `Value`; for searches and curves.

    Raises `UserError` for data that the metric cannot use.
    """

    def __init__(
        self, name: str, metric: Metric, reference: Reference, network: Any, settings: Settings
    ):
        self._name, self._metric, self._settings = name, metric, settings
        self._given, self._network = reference, network
        self._real = gather_reference(reference, network, metric.reference, settings)

    def __call__(self, samples: ImageSet) -> Value:
        """Returns the value of these samples."""
        extractors: Any = {self._metric.extractor: self._network}
        check(samples, self._given, {self._name: self._metric}, extractors)
        found = gather(samples, self._network, self._metric.samples, self._settings)
        return self._metric(found, self._real, self._network, self._settings.seed)
