"""The use of a codebook: closed forms, and the metric through the runner."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import METRICS, Reference, evaluate
from genjax.evaluation.codebook import usage_and_perplexity
from genjax.evaluation.extractors import Codes
from genjax.evaluation.images import of_arrays


def test_closed_forms():
    assert usage_and_perplexity(np.full(64, 3)) == pytest.approx((1.0, 64.0))
    assert usage_and_perplexity(np.array([5, 0, 0, 0])) == pytest.approx((0.25, 1.0))
    half = np.array([4, 2, 2, 0])
    assert usage_and_perplexity(half) == pytest.approx((0.75, 2**1.5))
    with pytest.raises(UserError, match="no codes"):
        usage_and_perplexity(np.zeros(4))


def test_the_metric_counts_every_image_once():
    def encode(params, images):
        return images.reshape(images.shape[0], -1).astype(jnp.int32) % params["size"]

    network = Codes(encode, {"size": np.int32(8)}, (2, 2, 1), 16, "mod 8")
    pictures = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2, 1)
    metrics = {"codebook": METRICS.build({"name": "codebook"})}
    reference = Reference("real", of_arrays("real", pictures))
    report = evaluate(of_arrays("x", pictures), reference, metrics, {"": network})
    entry = report["metrics"]["codebook"]
    assert entry["value"] == 0.5 and entry["details"]["perplexity"] == pytest.approx(8)
    assert entry["details"]["codes_an_image"] == 4 and "16 codes" in entry["protocol"]
    with pytest.raises(UserError, match=r"reads images \[2, 2, 1\]"):
        network(np.zeros((1, 3, 3, 1), np.uint8))
