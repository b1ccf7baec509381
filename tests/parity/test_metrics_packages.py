"""Metrics against the packages that people use: torch-fidelity, pytorch-fid, lpips, scikit-image.

Each test is skipped where its package is not installed. The packages import torchvision, which the
CPU build of torch has not; empty stand-ins suffice, for nothing of it is used here but the layers
of LPIPS' backbones.
"""

import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from genjax import weights  # noqa: E402
from genjax.core.resize import resize  # noqa: E402
from genjax.evaluation import manifold, pairs  # noqa: E402
from genjax.evaluation.frechet import frechet  # noqa: E402
from genjax.evaluation.inception_score import inception_score  # noqa: E402
from genjax.evaluation.kernel import kid  # noqa: E402
from genjax.evaluation.statistics import of_features  # noqa: E402

pytestmark = pytest.mark.parity


class Empty(types.ModuleType):
    """A module all of whose names are empty classes."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def features_of(layers):
    """Returns what torchvision's constructor returns, as far as LPIPS reads it."""
    return lambda **_: types.SimpleNamespace(features=nn.Sequential(*layers))


def alexnet():
    out = []
    for i, o, k, stride, pad, pool in (
        (3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False),
        (384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True),
    ):  # fmt: skip
        out += [nn.Conv2d(i, o, k, stride, pad), nn.ReLU(inplace=True)]
        out += [nn.MaxPool2d(3, 2)] if pool else []
    return out


def vgg16():
    out, before = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            out += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU(inplace=True)]
            before = width
        out.append(nn.MaxPool2d(2, 2))
    return out


class Fire(nn.Module):
    """1x1 down to s channels, then e channels each of 1x1 and 3x3, side by side."""

    def __init__(self, i, s, e):
        super().__init__()
        self.squeeze, self.squeeze_activation = nn.Conv2d(i, s, 1), nn.ReLU(inplace=True)
        self.expand1x1, self.expand1x1_activation = nn.Conv2d(s, e, 1), nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(s, e, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.squeeze_activation(self.squeeze(x))
        one = self.expand1x1_activation(self.expand1x1(x))
        return torch.cat([one, self.expand3x3_activation(self.expand3x3(x))], 1)


def squeezenet():
    out, before = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(inplace=True)], 64
    for group in ([(16, 64)] * 2, [(32, 128)] * 2, [(48, 192)] * 2 + [(64, 256)] * 2):
        out.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for s, e in group:
            out.append(Fire(before, s, e))
            before = 2 * e
    return out


@pytest.fixture(autouse=True)
def torchvision(monkeypatch):
    names = ("models", "models.inception", "transforms", "transforms.functional", "datasets", "ops")
    monkeypatch.setitem(sys.modules, "torchvision", Empty("torchvision"))
    for name in (f"torchvision.{n}" for n in names):
        monkeypatch.setitem(sys.modules, name, Empty(name))
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, sys.modules[name])
    models = sys.modules["torchvision.models"]
    models.alexnet, models.vgg16 = features_of(alexnet()), features_of(vgg16())
    models.squeezenet1_1 = features_of(squeezenet())
    sys.modules["torchvision"].__version__ = "0.28.0"


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(3)
    a = rng.normal(0, 1, (500, 24)).astype(np.float32)
    b = (1.2 * rng.normal(0, 1, (450, 24)) + 0.1).astype(np.float32)
    return a, b


def test_torch_fidelity_on_given_features(features):
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    a, b = features
    ta, tb = torch.tensor(a), torch.tensor(b)
    stats = [metric_fid.fid_features_to_statistics(t) for t in (ta, tb)]
    want = metric_fid.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert frechet(of_features(a), of_features(b)) == pytest.approx(want, rel=1e-6)

    settings = {"kid_subsets": 20, "kid_subset_size": 100, "verbose": False}
    found = metric_kid.kid_features_to_metric(ta, tb, **settings)
    mean, std = kid(a, b, subsets=20, size=100)
    assert mean == pytest.approx(found["kernel_inception_distance_mean"], abs=1e-6)
    assert std == pytest.approx(found["kernel_inception_distance_std"], abs=1e-6)

    found = metric_isc.isc_features_to_metric(ta)
    want = (found["inception_score_mean"], found["inception_score_std"])
    assert inception_score(a) == pytest.approx(want, abs=1e-6)

    found = metric_prc.prc_features_to_metric(ta, tb, verbose=False)  # generated, real
    real, fake = manifold.centred(b, a)
    assert manifold.precision(manifold.manifold(real, 3), fake) == pytest.approx(found["precision"])
    assert manifold.recall(manifold.manifold(fake, 3), real) == pytest.approx(found["recall"])


def test_resize_of_tensorflow_1():
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import interpolate_compat_tensorflow as compat

    x = np.random.default_rng(0).integers(0, 256, (2, 32, 41, 3)).astype(np.float32)
    t = torch.tensor(x.transpose(0, 3, 1, 2))
    want = compat.interpolate_bilinear_2d_like_tensorflow1x(t, size=(299, 299), align_corners=False)
    found = np.asarray(resize(x, 299, 299, "tf1"))
    np.testing.assert_allclose(found, want.numpy().transpose(0, 2, 3, 1), atol=255 * 1e-5)


@pytest.mark.parametrize("gray", [False, True])
def test_scikit_image(gray):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (3, 40, 52, 1 if gray else 3), np.uint8)
    y = np.clip(x + rng.normal(0, 25, x.shape), 0, 255).astype(np.uint8)
    psnr = [metrics.peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(x, y)]
    np.testing.assert_allclose(pairs.psnr(x, y), psnr, rtol=1e-6)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    how |= {"channel_axis": -1, "data_range": 255}
    ssim = [metrics.structural_similarity(a, b, **how) for a, b in zip(x, y)]
    np.testing.assert_allclose(np.asarray(pairs.ssim(x, y)), ssim, atol=1e-4)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_with_a_random_backbone_and_published_heads(net):
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # heads: the package's own files
    module, variables = weights.load(
        "lpips", {k: v.numpy() for k, v in theirs.state_dict().items()}
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3, 64, 64, 3)).astype(np.float32)
    y = np.clip(x + rng.normal(0, 0.3, x.shape), -1, 1).astype(np.float32)
    with torch.no_grad():
        want = theirs(*(torch.tensor(v.transpose(0, 3, 1, 2)) for v in (x, y))).numpy().ravel()
    assert want.min() > 0
    np.testing.assert_allclose(np.asarray(module.apply(variables, x, y)), want, rtol=1e-4)


@pytest.mark.parametrize("protocol, side", [("tf-legacy", 32), ("tf-legacy", 75)])
def test_the_extractor_of_torch_fidelity(tmp_path, protocol, side):
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from genjax.evaluation.networks import inception_network
    from tests.weights.recipe import golden
    from tests.weights.recipe import weights as filled

    tensors = filled(golden("fid_inception")[0]["shapes"])
    state = {k: torch.tensor(v) for k, v in tensors.items()}
    for name in [k for k in state if k.endswith("running_var")]:
        counted = name.replace("running_var", "num_batches_tracked")
        state.setdefault(counted, torch.tensor(0))
    torch.save(state, tmp_path / "inception.pth")
    names = ["2048", "logits_unbiased"]
    peer = FeatureExtractorInceptionV3(
        "inception-v3-compat", names, feature_extractor_weights_path=str(tmp_path / "inception.pth")
    )
    images = np.random.default_rng(side).integers(0, 256, (2, side, side, 3), np.uint8)
    with torch.no_grad():
        want = peer(torch.tensor(images.transpose(0, 3, 1, 2)))
    module, variables = weights.load("fid-inception", tensors, protocol=protocol)
    found = inception_network(protocol, module, variables)(images)
    for name, theirs in zip(("features", "logits"), want):
        ours, theirs = np.asarray(found[name]), theirs.numpy()
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4, name
