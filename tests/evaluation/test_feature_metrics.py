"""The metrics of features and of pairs through the runner: values, titles, one-line refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import (
    METRICS,
    Reference,
    Settings,
    evaluate,
    files,
    statistics,
    with_extractor,
)
from genjax.evaluation.frechet import frechet, frechet_infinity
from genjax.evaluation.images import of_arrays
from genjax.evaluation.kernel import cmmd, kid
from genjax.evaluation.pair_metrics import clip_scores
from genjax.evaluation.pairs import psnr, ssim
from genjax.evaluation.statistics import Statistics, of_features


class Pixels:
    """Features are the pixels, spatial ones their first half; captions count their letters."""

    hash, dim, protocol = "0123456789abcdef", 16, "x8/255"

    def __init__(self, name="inception-pytorch-fid"):
        self.name, self.calls = name, 0

    def __call__(self, images):
        self.calls += 1
        x = jnp.asarray(images, jnp.float32).reshape(len(images), -1)[:, :16] / 255
        return {"features": x, "logits": 8 * x[:, :5], "spatial": x[:, :8]}

    def embed_text(self, captions):
        return np.stack([np.full(16, len(c)) + np.arange(16) for c in captions])

    def distance(self, x, y):
        return np.abs(x.astype(np.float64) - y).mean((1, 2, 3))


def images(n, seed, shift=0, side=4):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, (n, side, side, 1)) + shift).astype(np.uint8)


def run(names, x, y, network=None, **reference):
    metrics = {name: METRICS.build({"name": name} | fields) for name, fields in names.items()}
    roles = {m.extractor for m in metrics.values()}
    given = Reference("real", None if y is None else of_arrays("real", y), **reference)
    samples = x if hasattr(x, "read") else of_arrays("drawn", x)
    network = network or Pixels()
    settings = Settings(batch=64)
    return evaluate(
        samples, given, metrics, {r: network for r in roles if r is not None}, settings=settings
    )["metrics"]


def features(x):
    return x.reshape(len(x), -1)[:, :16] / np.float32(255)


def test_all_metrics_of_features_in_one_pass():
    x, y = images(300, 1, 20), images(400, 2)
    names = ("fid", "sfid", "kid", "is", "precision", "recall", "density", "coverage")
    network = Pixels()
    report = run({n: {"size": 100} if n == "kid" else {} for n in names}, x, y, network)
    assert network.calls == 5 + 7
    a, b = features(x), features(y)
    want = frechet(of_features(a), of_features(b))
    assert report["fid"]["value"] == pytest.approx(want, rel=1e-5)
    assert report["fid"]["name"] == "fid[inception-pytorch-fid-01234567]"
    half = frechet(of_features(a[:, :8]), of_features(b[:, :8]))
    assert report["sfid"]["value"] == pytest.approx(half, rel=1e-5)
    assert report["kid"]["value"] == pytest.approx(kid(a, b, size=100)[0], rel=1e-6)
    assert "100 subsets of 100" in report["kid"]["protocol"]
    assert 1 < report["is"]["value"] < 5 and "logits without bias" in report["is"]["protocol"]
    for name in ("precision", "recall", "coverage"):
        assert 0 < report[name]["value"] <= 1
    assert "k = 3" in report["recall"]["protocol"] and "k = 5" in report["density"]["protocol"]


def test_too_small_subsets_and_sets():
    x, y = images(60, 1), images(70, 2)
    report = run({"kid": {}, "sfid": {}}, x[:8], y)
    assert "subsets of 8" in report["kid"]["warnings"][0]
    assert "TOO FEW SAMPLES: 8 for 8" in report["sfid"]["warnings"][0]
    with pytest.raises(UserError, match="60 samples are too few for 15 sample sizes"):
        run({"fid_infinity": {}}, x, y)
    with pytest.raises(UserError, match="needs more than 3 images, not 3"):
        run({"precision": {}}, x, y[:3])


def test_statistics_of_a_file_and_images_beside_them():
    x, y = images(100, 1), images(50, 2)
    stats, spatial = of_features(features(y)), of_features(features(y)[:, :8])
    held = {"statistics": stats, "spatial": spatial}
    report = run({"fid": {}, "sfid": {}}, x, None, **held)
    assert report["fid"]["reference_n"] == 50
    with pytest.raises(UserError, match="sfid needs the images themselves"):
        run({"sfid": {}}, x, None, statistics=stats)
    # As ADM's files: statistics of all images, ten thousand of which are there for recall.
    far = Statistics(stats.mu + 1, stats.sigma, 5000)
    report = run({"fid": {}, "recall": {}}, x, y, statistics=far)
    assert report["fid"]["value"] > 15 and report["recall"]["value"] > 0.5


def test_spatial_statistics_are_kept_apart_in_the_cache(tmp_path):
    x, y = of_arrays("drawn", images(40, 1)), Reference("real", of_arrays("real", images(60, 2)))
    metrics = {n: METRICS.build({"name": n}) for n in ("fid", "sfid")}
    network = Pixels()
    settings = Settings(batch=64, cache=tmp_path)
    first = evaluate(x, y, metrics, {"": network}, settings=settings)
    assert network.calls == 2 and len(list(tmp_path.iterdir())) == 2
    again = evaluate(x, y, metrics, {"": network}, settings=settings)
    assert network.calls == 3  # the samples alone
    assert again["metrics"]["sfid"]["value"] == pytest.approx(first["metrics"]["sfid"]["value"])


def test_adm_file_keys(tmp_path):
    arrays = {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.ones(2), "sigma_s": 2 * np.eye(2)}
    np.savez(tmp_path / "ref.npz", **arrays)
    assert files.keys(tmp_path / "ref.npz") == arrays.keys()
    spatial = statistics.load(tmp_path / "ref.npz", "_s")
    assert spatial.dim == 2 and spatial.sigma[0, 0] == 2


def test_frechet_infinity_finds_the_line_and_beats_the_bias():
    d = 8
    exact = Statistics(np.zeros(d), np.eye(d), None)
    x = np.random.default_rng(0).standard_normal((4000, d)).astype(np.float32)
    value, fit = frechet_infinity(x, exact)
    assert fit > 0.8 and abs(value) < 0.5 * frechet(of_features(x[:400]), exact)
    report = run({"fid_infinity": {"points": 5}}, images(200, 1), images(300, 2))
    assert "1/N at 5 sizes" in report["fid_infinity"]["protocol"]


def test_metrics_with_a_network_of_their_own():
    x, y = images(80, 1, 20), images(90, 2)
    found = run({"cmmd": {}}, x, y, Pixels("clip-l14-336"))["cmmd"]
    assert found["value"] == pytest.approx(cmmd(features(x), features(y)), abs=1e-5)
    assert run({"fd_dinov2": {}}, x, y, Pixels("dinov2-l"))["fd_dinov2"]["name"].startswith("fd[")
    warned = run({"rfid": {}}, x, y)["rfid"]
    assert warned["name"].startswith("rfid[") and "80 reconstructions" in warned["warnings"][-1]
    metric = METRICS.build({"name": "cmmd"})
    assert with_extractor(metric, "clip:b32").extractor == "clip:b32"
    assert with_extractor(metric, "inception").extractor == "clip:l14-336"
    assert with_extractor(METRICS.build({"name": "kid"}), "clip:b32").extractor == ""


def test_clip_score_and_its_scales():
    images_ = of_arrays("drawn", images(5, 1)).with_captions(
        lambda: ["a", "bb", "c", "dd", "eeeee"]
    )
    network = Pixels("clip-l14")
    text = network.embed_text(images_.captions)
    for scale, factor in (("torchmetrics", 100), ("clipscore", 2.5), ("cosine", 1)):
        found = run({"clip_score": {"scale": scale}}, images_, None, network)["clip_score"]
        a = features(images(5, 1))
        cosine = (a * text).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(text, axis=1)
        assert found["value"] == pytest.approx(factor * cosine.mean(), rel=1e-5)
        assert found["name"] == f"clip_score-{scale}[clip-l14-01234567]"
    opposite = clip_scores(np.eye(2), -np.eye(2), "torchmetrics")
    assert opposite.tolist() == [0, 0] and clip_scores(np.eye(2), -np.eye(2), "cosine").max() == -1
    with pytest.raises(UserError, match="has no captions"):
        run({"clip_score": {}}, images(5, 1), None)
    with pytest.raises(UserError, match="scale is 'percent'"):
        METRICS.build({"name": "clip_score", "scale": "percent"})


def test_metrics_of_pairs():
    x, y = images(70, 1, side=16), images(70, 2, side=16)
    report = run({"psnr": {}, "ssim": {}, "lpips": {}}, x, y, Pixels("lpips-alex"))
    assert report["psnr"]["value"] == pytest.approx(psnr(x, y).mean(), abs=1e-9)
    assert report["ssim"]["value"] == pytest.approx(float(np.mean(ssim(x, y))), abs=1e-6)
    assert "16x16" in report["lpips"]["protocol"] and report["lpips"]["value"] > 0
    with pytest.raises(UserError, match="there are 70 and 69"):
        run({"psnr": {}}, x, y[:69])
    with pytest.raises(UserError, match="at least 176"):
        run({"ms_ssim": {}}, x, y)


@pytest.mark.parametrize("name", ["kid", "is", "fid_infinity", "precision", "lpips"])
def test_wrong_fields(name):
    field = {"kid": "size", "is": "splits", "fid_infinity": "points", "precision": "k"}.get(name)
    if field:
        with pytest.raises(UserError, match=field):
            METRICS.build({"name": name, field: 0})
    with pytest.raises(UserError, match="unknown key"):
        METRICS.build({"name": name, "other": 1})
