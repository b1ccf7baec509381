"""How much of its codebook a tokenizer uses on a set of images."""

import dataclasses

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.evaluation.metrics import Evidence, Value, given, title


def usage_and_perplexity(counts: np.ndarray) -> tuple[float, float]:
    """Returns (share of codes that occur, exp(-sum p log p)) of the histogram [K] of codes.

    A uniform histogram gives (1, K). Raises `UserError` where there are no codes.
    """
    counts = np.asarray(counts, np.float64)
    if not counts.sum():
        raise UserError("codebook: there are no codes to count; give images")
    p = counts[counts > 0] / counts.sum()
    return float(np.mean(counts > 0)), float(np.exp(-np.sum(p * np.log(p))))


@dataclasses.dataclass(frozen=True)
class CodebookUsage:
    """The share of a tokenizer's codes that occur in the images."""

    extractor: str = option("", "tokenizer:WORKDIR (empty: the one given by --extractor)")
    samples = frozenset({"codes"})
    reference = frozenset()

    def __call__(self, samples: Evidence, reference: Evidence, network, seed: int) -> Value:
        """Returns a share in 0..1; details: perplexity and number of codes, all and in an image."""
        codes = given(samples.codes)
        usage, perplexity = usage_and_perplexity(np.bincount(codes.ravel(), minlength=network.size))
        return Value(
            usage,
            title("codebook", network),
            f"{network.protocol}; share of {network.size} codes used over all images",
            {"perplexity": perplexity, "codes": network.size, "codes_an_image": codes.shape[1]},
        )
