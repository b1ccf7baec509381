"""The metric of bits/dim: every image, every pass, and a report that needs no samples."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import METRICS, MODEL, Reference, Settings, evaluate, lines
from genjax.evaluation.images import of_arrays

IMAGES = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
REFERENCE = Reference("seven", of_arrays("seven", IMAGES))


class Counted:
    """Gives image i of pass p the bits i + p/10."""

    name, hash, protocol, batch = "model", "0123456789", "weights main", 3

    def __init__(self, ok=True, nan=False):
        self.asked, self.ok, self.nan = [], ok, nan

    def __call__(self, images, indices, number):
        np.testing.assert_array_equal(images, IMAGES[indices])
        self.asked.append((number, indices.tolist()))
        bits = indices + number / 10
        return {
            "bits": np.where((indices == 5) & self.nan, np.nan, bits),
            "nfe": 100 + 10 * indices,
            "ok": (indices != 4) | self.ok,
        }


def measure(density, samples=None, target=None, **fields):
    metrics = {"bpd": METRICS.build({"name": "bpd", **fields})}
    settings = Settings(target=target or {})
    return evaluate(samples, REFERENCE, metrics, {MODEL: density}, settings=settings)


def test_every_image_counts_in_every_pass():
    density = Counted()
    report = measure(density, passes=2)
    assert density.asked == [(p, part) for p in (0, 1) for part in ([0, 1, 2], [3, 4, 5], [6])]
    entry = report["metrics"]["bpd"]
    assert entry["value"] == pytest.approx(3.05) and entry["n"] == entry["reference_n"] == 7
    assert entry["details"]["standard_error"] == pytest.approx(np.std(range(7), ddof=1) / 7**0.5)
    assert entry["details"]["passes"] == pytest.approx([3.0, 3.1])
    assert entry["protocol"] == (
        "weights main; 2 passes; NFE 130.0 (100 to 160); reference seven (N = 7); seed 0"
    )
    assert entry["extractor"] == "model" and entry["extractor_hash"] == "0123456789"
    assert report["samples"] is None and report["n"] is None and entry["context"] == {}
    text = lines(report)
    assert text[0] == "images of seven" and text[1] == "bpd = 3.05 +- 0.82 (standard error)"


def test_some_images_are_drawn_once():
    density = Counted()
    entry = measure(density, images=4, passes=2)["metrics"]["bpd"]
    parts = [[i for n, part in density.asked if n == p for i in part] for p in (0, 1)]
    assert parts[0] == parts[1] and len(set(parts[0])) == 4 and entry["n"] == 4
    assert "4 images drawn at random" in entry["protocol"]
    assert entry["value"] == pytest.approx(np.mean(parts[0]) + 0.05)


def test_beside_metrics_of_samples_it_stays_its_own():
    samples = of_arrays("drawn", IMAGES[:5], made="step 3")
    metrics = {n: METRICS.build({"name": n}) for n in ("spread", "bpd")}
    report = evaluate(
        samples,
        REFERENCE,
        metrics,
        {MODEL: Counted()},
        context=[of_arrays("others", IMAGES)],
        settings=Settings(note="labels balanced; NFE 50"),
    )
    bpd, spread = report["metrics"]["bpd"], report["metrics"]["spread"]
    assert bpd["n"] == 7 and spread["n"] == report["n"] == 5
    assert "NFE 50" in spread["protocol"] and "NFE 50" not in bpd["protocol"]
    assert bpd["context"] == {} and "others" in spread["context"]


def test_the_target_of_a_paper():
    target = {"metric": "bpd", "value": 3.0, "protocol": "weights main; 1 pass"}
    entry = measure(Counted(), target=target)["metrics"]["bpd"]
    assert entry["difference"] == pytest.approx(0.0)
    entry = measure(Counted(), target=target, passes=5)["metrics"]["bpd"]
    assert entry["difference"] is None and "'1 pass'" in entry["target_note"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: measure(Counted(ok=False)), "the ODE of 1 images of seven .* is number 4"),
        (lambda: measure(Counted(nan=True)), "bits/dim of image 5 of seven are not finite"),
        (lambda: measure(Counted(), passes=0), "passes must be at least 1"),
        (lambda: measure(Counted(), images=0), "images must be at least 1"),
        (
            lambda: evaluate(None, REFERENCE, {"bpd": METRICS.build({"name": "bpd"})}, {}),
            "bpd asks the model itself; it goes with --workdir",
        ),
        (
            lambda: evaluate(None, REFERENCE, {"s": METRICS.build({"name": "spread"})}, {}),
            "s measures samples; give some",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line(run, message):
    with pytest.raises(UserError, match=message):
        run()
