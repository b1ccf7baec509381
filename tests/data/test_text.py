import pickle

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.data import StreamSettings, open_stream
from genjax.data.shapes import Shapes
from genjax.data.text import EOS, PAD, Tokenizer, save, train


@pytest.fixture(scope="module")
def captions():
    source = Shapes().open()
    return [source.caption(i) for i in range(2000)]


@pytest.fixture(scope="module")
def model(captions):
    return train(captions, 16_000)


def test_training_is_deterministic_and_keeps_whole_words(captions, model):
    assert train(captions, 16_000) == model
    tokenizer = Tokenizer(model, 16)
    assert 259 + 20 < tokenizer.size < 400  # special ids, bytes, and few words to learn
    for word in ("small", "checkered", "solid", "red", "orange", "triangle", "circles", "them"):
        assert len(tokenizer.ids(word)) == 1, word
    longest = max(len(tokenizer.ids(c)) for c in captions)
    assert longest < 64
    assert train(captions[:500], 300) != model


def test_ids_are_padded_cut_and_ended(model):
    tokenizer = Tokenizer(model, 8)
    ids = tokenizer.encode("a red circle")
    assert ids.dtype == np.int32 and ids.shape == (8,)
    assert ids[3] == EOS and np.all(ids[4:] == PAD) and np.all(ids[:3] > 2)
    long = tokenizer.encode("a red circle above a small blue square and two large green crosses")
    assert long[7] == EOS and np.all(long[:7] > 2)
    assert tokenizer.decode(long) == "a red circle above a small blue"
    assert tokenizer.encode("").tolist() == [EOS] + [PAD] * 7
    assert tokenizer.encode_batch(["a", ""]).shape == (2, 8)


def test_any_text_survives_by_bytes_and_case_is_kept(model):
    tokenizer = Tokenizer(model, 128)
    for text in ("A sign that SAYS «Straße»", "狗 🦊", "x = 3.5%"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert 2 not in tokenizer.encode(text)
    assert tokenizer.ids("ﬁ") == tokenizer.ids("fi")  # NFKC
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a dog").tolist() == (
        tokenizer.encode("a dog").tolist()
    )


def settings(**given):
    return construct(StreamSettings, expand(StreamSettings, given, "data.main"), "data.main")


def test_streams_give_tokens(model, tmp_path):
    save(model, {}, str(tmp_path))
    text = {"name": "sentencepiece", "model": str(tmp_path), "length": 40}
    given = settings(source={"name": "shapes"}, batch=4, text=text, fields=("tokens", "caption"))
    stream = open_stream(given)
    batch = next(stream)
    assert stream.spec["tokens"] == ((40,), "int32")
    stream.close()
    tokenizer = Tokenizer(model, 40)
    assert batch["tokens"].shape == (4, 40)
    for ids, caption in zip(batch["tokens"], batch["caption"]):
        assert tokenizer.decode(ids) == caption
    # Without fields: every array, and the caption stays behind.
    stream = open_stream(settings(source={"name": "shapes"}, batch=4, text=text))
    assert sorted(next(stream)) == ["image", "tokens"]
    stream.close()
    with pytest.raises(UserError, match=r"data\.main\.text: element .* has no caption"):
        open_stream(settings(source={"name": "digits"}, batch=4, text=text))
    text["length"] = 1
    with pytest.raises(UserError, match=r"text: length must be at least 2"):
        settings(source={"name": "shapes"}, text=text)


def test_bad_models_are_one_line(model, tmp_path):
    text = {"name": "sentencepiece", "model": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"none/text\.model: no such file"):
        open_stream(settings(source={"name": "shapes"}, text=text))
    with pytest.raises(UserError, match="no SentencePiece model"):
        Tokenizer(b"something else", 8)
    import io

    import sentencepiece

    other = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 5),
        model_writer=other,
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="needs 0, 1, 2"):
        Tokenizer(other.getvalue(), 8)
    with pytest.raises(UserError, match="learns nothing"):
        train([], 300)
