"""Feature networks as extractors, the files of their weights, and CLIP's tokens."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.evaluation import Tools, open_extractor, weight_files
from genjax.evaluation.clip_tokens import Tokenizer
from genjax.evaluation.networks import ClipNetwork, LpipsNetwork
from genjax.evaluation.weight_files import NETWORKS, WeightFile, find
from genjax.models.clip import CLIP
from genjax.models.lpips import LPIPS
from tests.models.test_encoders import TINY

MERGES = "#version: 0.2\nt h\nth e</w>\nr e\nre d</w>\n"


@pytest.fixture(scope="module")
def clip():
    x, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 10), jnp.int32)
    module = TINY.clone(vocabulary=600, end=512 + 4 + 1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, tokens)
    rng = np.random.default_rng(0)
    return module, jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


def test_clip_embeds_images_of_any_size_and_captions(tmp_path, clip):
    (tmp_path / "merges.txt").write_text(MERGES)
    network = ClipNetwork("tiny", *clip, str(tmp_path / "merges.txt"))
    assert network.name == "clip-tiny" and network.dim == 6 and "short side 16" in network.protocol
    images = np.random.default_rng(1).integers(0, 256, (3, 20, 16, 1), np.uint8)
    found = np.asarray(network(images)["features"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    cropped = np.asarray(network(images[:, 2:18])["features"])
    np.testing.assert_allclose(found, cropped, atol=1e-6)  # height 20 -> the middle 16
    text = network.embed_text(["the red", "red", "the red"], rows=2)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(text[0], text[2], atol=1e-6)
    assert np.abs(text[0] - text[1]).max() > 1e-3
    tokens = jnp.asarray(Tokenizer.read(tmp_path / "merges.txt")(["red"], 10))
    alone = clip[0].apply(clip[1], tokens, method=CLIP.encode_text)["embedding"][0]
    np.testing.assert_allclose(text[1], alone / jnp.linalg.norm(alone), atol=1e-5)
    with pytest.raises(UserError, match=r"merges\.txt"):
        ClipNetwork("tiny", *clip, None).embed_text(["red"])


def test_lpips_is_a_distance_of_uint8_images():
    x = jnp.zeros((1, 64, 64, 3))
    module = LPIPS("alex")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: np.abs(rng.standard_normal(s.shape) * 0.05).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), x, x),
    )
    network = LpipsNetwork(module, variables)
    a, b = rng.integers(0, 256, (2, 2, 64, 64, 1), np.uint8)
    found = network.distance(a, b)
    assert found.shape == (2,) and found.min() > 0 and network.distance(a, a).max() < 1e-9
    direct = module.apply(variables, a / 127.5 - 1, b / 127.5 - 1)
    np.testing.assert_allclose(found, direct, rtol=1e-4)
    with pytest.raises(UserError, match="compares pairs"):
        network(a)


def test_tokens_by_hand(tmp_path):
    (tmp_path / "merges.txt").write_text(MERGES)
    tokenizer = Tokenizer.read(tmp_path / "merges.txt")
    # 256 bytes, 256 bytes that end a word, then the merges in their order.
    assert tokenizer.ids["th"] == 512 and tokenizer.ids["red</w>"] == 515
    assert (tokenizer.start, tokenizer.end) == (516, 517)
    assert tokenizer.encode("  The  RED ") == [513, 515]
    assert tokenizer.encode("a&amp;1") == [tokenizer.ids[t + "</w>"] for t in ("a", "&", "1")]
    row = tokenizer(["the red", "the " * 40], 8)
    assert row[0].tolist() == [516, 513, 515, 517, 517, 517, 517, 517]
    assert row[1].tolist() == [516, *[513] * 6, 517]
    (tmp_path / "bad.txt").write_text("header\none two three\n")
    with pytest.raises(UserError, match="two symbols a line"):
        Tokenizer.read(tmp_path / "bad.txt")


def test_missing_and_damaged_files_are_one_line(tmp_path):
    file = WeightFile("net.pth", "https://example.org/net.pth", hashlib.sha256(b"good").hexdigest())
    with pytest.raises(UserError) as missing:
        find([file], "net", (), tmp_path)
    for part in ("net.pth", "https://example.org/net.pth", str(tmp_path), "--weights FILE"):
        assert part in str(missing.value)
    (tmp_path / "net.pth").write_bytes(b"bad")
    with pytest.raises(UserError, match="damaged or another file"):
        find([file], "net", (), tmp_path)
    (tmp_path / "net.pth").write_bytes(b"good")
    assert find([file], "net", (), tmp_path) == [tmp_path / "net.pth"]
    assert find([file], "net", (), tmp_path) == [tmp_path / "net.pth"]  # by the note beside it
    (tmp_path / "net.pth").write_bytes(b"evil!")
    with pytest.raises(UserError, match="damaged or another file"):
        find([file], "net", (), tmp_path)
    with pytest.raises(UserError, match=r"--weights: .*other.pth \(for net\) does not exist"):
        find([file], "net", [tmp_path / "other.pth"], tmp_path)


def test_table_of_files():
    for spec, weights in NETWORKS.items():
        for file in weights.files:
            assert file.url.startswith("https://") and "/" not in file.name, spec
            assert len(file.sha256) in (0, 8, 64) and file.sha256 == file.sha256.lower()
    assert sum(not f.sha256 for w in NETWORKS.values() for f in w.files) == 4
    assert weight_files.default_folder().name == "weights"


def test_opening_hands_files_and_fields_to_the_importer(tmp_path):
    seen = []

    def load(format, files, **fields):
        seen.append((format, [f.name for f in files], fields))
        raise UserError("stop here")

    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"")
    a, b = str(tmp_path / "a.pth"), str(tmp_path / "b.pth")
    files = {"inception": [a], "lpips": [a, b], "dinov2:s": [b]}
    tools = Tools(lambda path: (None, None), load, files, tmp_path)
    for spec in ("inception:tf-legacy", "inception", "lpips:vgg", "dinov2:s"):
        with pytest.raises(UserError, match="stop here"):
            open_extractor(spec, tools)
    assert seen == [
        ("fid-inception", ["a.pth"], {"protocol": "tf-legacy"}),
        ("fid-inception", ["a.pth"], {"protocol": "pytorch-fid"}),
        ("lpips", ["a.pth", "b.pth"], {"net": "vgg"}),
        ("dinov2", ["b.pth"], {}),
    ]
    with pytest.raises(UserError, match=r"dinov2_vitl14_pretrain\.pth; download https"):
        open_extractor("dinov2:l", tools)
