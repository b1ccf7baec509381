"""Metrics and resizing against PyTorch and published reference values on features from a seed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from genjax.core.resize import matrix, resize  # noqa: E402
from genjax.evaluation import manifold  # noqa: E402
from genjax.evaluation.clip_tokens import Tokenizer, byte_symbols  # noqa: E402
from genjax.evaluation.frechet import frechet  # noqa: E402
from genjax.evaluation.inception_score import inception_score  # noqa: E402
from genjax.evaluation.kernel import kid  # noqa: E402
from genjax.evaluation.statistics import of_features  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def features():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(400, 16, generator=generator)
    b = 1.1 * torch.randn(400, 16, generator=generator) + 0.1
    return a.numpy(), b.numpy()


def test_values_of_torch_fidelity_and_pytorch_fid(features):
    # What torch-fidelity 0.4.0 (and pytorch-fid for the first) gave for these features.
    a, b = features
    assert frechet(of_features(a), of_features(b)) == pytest.approx(0.884093075390382, rel=1e-6)
    assert kid(a, b, subsets=10, size=100) == pytest.approx((0.0739194, 0.0409110), abs=1e-6)
    assert inception_score(a) == pytest.approx((1.5090509, 0.0409530), abs=1e-6)
    real, fake = manifold.centred(b, a)
    found = (
        manifold.precision(manifold.manifold(real, 3), fake),
        manifold.recall(manifold.manifold(fake, 3), real),
    )
    assert found == (0.8850, 0.6250)


@pytest.mark.parametrize("old, new", [((32, 32), (299, 299)), ((50, 37), (20, 64))])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_resizes_of_torch(kind, old, new):
    x = np.random.default_rng(0).standard_normal((2, *old, 3)).astype(np.float32)
    t = torch.tensor(x.transpose(0, 3, 1, 2))
    want = torch.nn.functional.interpolate(t, new, mode=kind, align_corners=False)
    np.testing.assert_allclose(resize(x, *new, kind), want.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_positions_resized_by_a_factor_that_is_not_the_ratio():
    x = np.random.default_rng(1).standard_normal((37, 37)).astype(np.float32)
    factor = (16 + 0.1) / 37
    want = torch.nn.functional.interpolate(
        torch.tensor(x)[None, None], scale_factor=(factor, factor), mode="bicubic"
    )[0, 0].numpy()
    m = matrix(37, 16, "bicubic", 37 / 16.1)
    assert want.shape == (16, 16)
    np.testing.assert_allclose(m @ x @ m.T, want, atol=1e-5)


def test_tokens_of_transformers(tmp_path):
    merges = ["t h", "th e</w>", "r e", "re d</w>", "c i", "l e</w>", "2 3", "' s</w>", "Ã ©</w>"]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    ours = Tokenizer.read(tmp_path / "merges.txt")
    vocabulary = ours.ids | {"<|startoftext|>": ours.start, "<|endoftext|>": ours.end}
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(m.split()) for m in merges])
    assert len(byte_symbols()) == 256
    for text in (
        "The red circle, isn't it?",
        "a photo of 123 cafés & the dog's  ball!!!",
        "日本語 naïve Ünïcode -- x²+y",
        "under_score  tab\tnew\nline 'quoted' they'll we're",
        "",
    ):
        want = theirs(text, padding="max_length", max_length=40, truncation=True)["input_ids"]
        np.testing.assert_array_equal(ours([text], 40)[0], want, err_msg=text)
