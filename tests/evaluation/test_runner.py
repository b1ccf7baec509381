"""The runner: what it gathers, writes, caches, labels loudly and refuses."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import (
    METRICS,
    Reference,
    Settings,
    Tools,
    evaluate,
    lines,
    open_extractor,
    statistics,
    write_json,
)
from genjax.evaluation.images import noise, of_arrays
from genjax.evaluation.metrics import Value
from genjax.evaluation.runner import compare

SHAPE = (4, 4, 1)


class Pixels:
    """An extractor whose features are the pixels and whose logits favour brightness k."""

    name, hash, dim, protocol = "pixels", "0123456789abcdef", 16, "x8/255"

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append(images.shape[0])
        x = jnp.asarray(images, jnp.float32).reshape(len(images), -1) / 255
        centres = (jnp.arange(10) + 0.5) / 10
        return {"features": x, "logits": -jnp.abs(x.mean(1)[:, None] - centres)}


def digits_like(n, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    pixels = (labels[:, None] + 0.5) / 10 * 255 + rng.normal(0, 4, (n, 16))
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(n, *SHAPE), labels


def sets(n=200, m=1000):
    return of_arrays("drawn", *digits_like(n, 1)), Reference(
        "real", of_arrays("real", *digits_like(m, 2))
    )


def build(*names):
    return {name: METRICS.build({"name": name}) for name in names}


def run(samples, reference, *names, network=None, context=(), **settings):
    network = network or Pixels()
    return evaluate(
        samples,
        reference,
        build(*names),
        {"": network},
        context=context,
        settings=Settings(batch=64, **settings),
    )


def test_every_metric_says_what_it_measured(tmp_path):
    samples, reference = sets()
    others = [of_arrays("held-out", *digits_like(500, 3)), noise(SHAPE, 300, 0)]
    names = ("fid", "label_agreement", "spread", "nearest")
    report = run(samples, reference, *names, context=others, seed=5, note="labels drawn uniformly")
    write_json(tmp_path / "r.json", report)
    read = json.loads((tmp_path / "r.json").read_text())
    assert read == report and list(read["metrics"]) == list(names)
    for name in names:
        entry = read["metrics"][name]
        assert (entry["n"], entry["reference"], entry["seed"]) == (200, "real", 5)
        assert entry["reference_n"] == 1000
        assert "N = 200" in entry["protocol"] and "labels drawn uniformly" in entry["protocol"]
        assert entry["target"] is None and entry["difference"] is None
    assert read["metrics"]["fid"]["name"] == "frechet[pixels-01234567]"
    assert read["metrics"]["fid"]["extractor_hash"] == Pixels.hash
    assert "reference real (N = 1000)" in read["metrics"]["fid"]["protocol"]
    assert read["metrics"]["nearest"]["extractor"] is None
    assert read["metrics"]["label_agreement"]["value"] > 0.95
    assert read["metrics"]["spread"]["value"] == pytest.approx(1, abs=0.1)
    # Other sets: the same N, and no agreement for what has no labels.
    fid = read["metrics"]["fid"]["context"]
    assert fid["held-out"]["n"] == 200 and fid["uniform noise"]["n"] == 200
    assert fid["uniform noise"]["value"] > 10 * fid["held-out"]["value"]
    assert list(read["metrics"]["label_agreement"]["context"]) == ["held-out"]
    text = "\n".join(lines(report))
    assert "frechet[pixels-01234567] = " in text and "for uniform noise" in text


def test_batch_size_does_not_matter_and_padding_counts_nothing():
    samples, reference = sets(n=77)
    a, b = (
        evaluate(samples, reference, build("fid"), {"": Pixels()}, settings=Settings(batch=size))
        for size in (8, 1000)
    )
    assert a["metrics"]["fid"]["value"] == pytest.approx(b["metrics"]["fid"]["value"], rel=1e-5)


def test_other_sets_are_thinned_at_random():
    samples, reference = sets(n=100)
    images, labels = digits_like(1000, 3)
    order = np.argsort(labels, kind="stable")  # as data sets sorted by class are
    by_class = of_arrays("sorted", images[order], labels[order])
    entry = run(samples, reference, "spread", context=[by_class])["metrics"]["spread"]
    assert entry["context"]["sorted"]["value"] == pytest.approx(1, abs=0.15)


def test_distance_of_the_reference_to_itself_is_zero():
    _, reference = sets()
    report = run(dataclasses.replace(reference.images, name="same"), reference, "fid")
    assert report["metrics"]["fid"]["value"] < 1e-9


def test_few_samples_are_said_loudly():
    samples, reference = sets(n=10)
    report = run(samples, reference, "fid")
    assert "TOO FEW SAMPLES: 10 for 16 dimensions" in report["warnings"][0]
    assert any("WARNING: TOO FEW" in line for line in lines(report))
    assert "FEW SAMPLES" in run(*sets(n=100), "fid")["warnings"][0]  # mostly bias: equal laws
    shifted = of_arrays("far", 255 - digits_like(400)[0] // 2)
    assert run(shifted, reference, "fid")["warnings"] == []


def test_reference_statistics_are_made_once(tmp_path):
    samples, reference = sets()
    network = Pixels()
    first = run(samples, reference, "fid", network=network, cache=tmp_path)
    calls = len(network.calls)
    assert calls == 4 + 16
    second = run(samples, reference, "fid", network=network, cache=tmp_path)
    assert len(network.calls) == calls + 4 and second == first
    other = Pixels()
    other.hash = "fedcba9876543210"
    run(samples, reference, "fid", network=other, cache=tmp_path)
    assert len(other.calls) == 20 and len(list(tmp_path.iterdir())) == 2


def test_statistics_files_as_reference(tmp_path):
    samples, reference = sets()
    run(samples, reference, "fid", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    stored = Reference("stored", None, statistics.load(file))
    got = run(samples, stored, "fid")["metrics"]["fid"]
    assert got["value"] == run(samples, reference, "fid")["metrics"]["fid"]["value"]
    assert got["reference_n"] == 1000
    other = Pixels()
    other.protocol = "x8/127.5 - 1"
    with pytest.raises(UserError, match="distances between the two mean nothing"):
        run(samples, stored, "fid", network=other)
    silent = Reference("peer", None, dataclasses.replace(stored.statistics, protocol={}, n=None))
    entry = run(samples, silent, "fid")["metrics"]["fid"]
    assert "N = unknown" in entry["protocol"] and "does not say" in entry["warnings"][-1]
    with pytest.raises(UserError, match="needs the images themselves"):
        run(samples, stored, "spread")


def test_a_new_metric_and_network_need_nothing_of_the_runner():
    @dataclasses.dataclass(frozen=True)
    class Brightness:
        extractor = "other"
        samples = frozenset({"features"})
        reference = frozenset({"features"})

        def __call__(self, samples, reference, network, seed):
            ratio = samples.features.mean() / reference.features.mean()
            return Value(float(ratio), f"brightness[{network.name}]", "ratio of means")

    samples, reference = sets()
    report = evaluate(samples, reference, {"b": Brightness()}, {"other": Pixels()})
    assert report["metrics"]["b"]["value"] == pytest.approx(1, abs=0.1)


def test_targets_are_compared_only_with_their_own_kind():
    value = Value(0.97, "label_agreement[classifier-01234567]", "p")
    target = {"metric": "label_agreement", "value": 0.95}

    def difference(value=value, name="label_agreement", **changes):
        return compare(target | changes, name, value, "p; N = 10; euler")[1:]

    assert difference()[0] == pytest.approx(0.02)
    assert difference(metric="label_agreement[classifier]")[0] == pytest.approx(0.02)
    assert difference(protocol="N = 10; euler")[0] == pytest.approx(0.02)
    assert difference(protocol="N = 50000") == (
        None,
        "the target 0.95 was measured otherwise ('N = 50000')",
    )
    assert difference(metric="spread")[0] is None
    assert compare({}, "spread", value, "p") == (None, None, "")
    # FID means the Inception network: other features do not claim it.
    frechet = Value(3.0, "frechet[classifier-01234567]", "p")
    assert difference(frechet, "fid", metric="fid")[0] is None
    assert difference(frechet, "fid", metric="frechet[classifier]")[0] == pytest.approx(2.05)


class Broken(Pixels):
    def __call__(self, images):
        out = super().__call__(images)
        return out | {"features": out["features"] / 0, "logits": out["logits"] * jnp.nan}


def test_wrong_inputs_are_one_line():
    samples, reference = sets()
    unlabelled = of_arrays("bare", digits_like(50)[0])
    with pytest.raises(UserError, match="bare: has no labels, which label_agreement needs"):
        run(unlabelled, reference, "label_agreement")
    with pytest.raises(UserError, match="one image has no covariance"):
        run(samples.take(np.arange(1)), reference, "fid")
    with pytest.raises(UserError, match="features of samples 0 to 63 are not finite"):
        run(samples, reference, "fid", network=Broken())
    with pytest.raises(UserError, match="drawn: the logits of pixels are not finite"):
        run(samples, reference, "label_agreement", network=Broken())
    with pytest.raises(UserError, match="labels from 0 to 12, but the classifier knows 10"):
        run(of_arrays("x", digits_like(50)[0], np.arange(50) % 13), reference, "label_agreement")
    with pytest.raises(UserError, match="cannot be compared"):
        run(of_arrays("x", np.zeros((5, 8, 8, 1), np.uint8)), reference, "spread")
    with pytest.raises(UserError, match="its statistics have 3 dimensions"):
        stats = statistics.Statistics(np.zeros(3), np.eye(3), 10)
        run(samples, Reference("r", None, stats), "fid")
    with pytest.raises(UserError, match="fid needs a feature network"):
        evaluate(samples, reference, build("fid"), {})
    with pytest.raises(UserError, match="at least one metric"):
        evaluate(samples, reference, {}, {})
    with pytest.raises(UserError, match="is no metric; choose one of"):
        build("fiid")


def test_extractors_are_named_and_found(tmp_path):
    for spec in ("classifier", "classifier:", "resnet:x"):
        with pytest.raises(UserError, match="expected inception"):
            open_extractor(spec, Tools(lambda path: (None, None)))
    with pytest.raises(UserError, match="holds no classifier"):
        open_extractor("classifier:somewhere", Tools(lambda path: (object(), {})))
    for spec in ("dinov2", "dinov2:xl", "clip:l16", "lpips:resnet"):
        with pytest.raises(UserError, match="choose one of"):
            open_extractor(spec, Tools(lambda path: (None, None)))
    with pytest.raises(UserError, match="'mine' is no protocol of FID"):
        open_extractor("inception:mine", Tools(lambda path: (None, None)))


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--json: .* cannot be written"):
        write_json(tmp_path / "file" / "r.json", {})
