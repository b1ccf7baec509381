"""Which candidate is kept, and the page of pictures; a stand-in draws them."""

import re

import numpy as np
import pytest

from genjax.cli import prompt_page
from genjax.cli.prompts import captions_of, draw, tokens_of
from genjax.core.errors import UserError
from genjax.data.prompts import Prompt
from genjax.evaluation import Reference
from genjax.evaluation.images import of_arrays

PROMPTS = ["a", "b", "c"]


class Text:
    def encode_batch(self, texts):
        return np.array([[ord(t)] for t in texts], np.int32)


class Model:
    """Sample i is a picture of the number i; it hands them out in batches."""

    params, frozen, text = {}, {}, Text()

    def __init__(self, batch):
        self.batch, self.asked = batch, {}

    def generator(self, num, **asked):
        self.asked = asked

        def parts(params, frozen, *, num, labels, seed, given):
            self.tokens = given["tokens"]
            for start in range(0, num, self.batch):
                index = np.arange(start, min(start + self.batch, num), dtype=np.uint8)
                yield np.broadcast_to(index[:, None, None, None], (len(index), 2, 2, 3)), None

        return parts


def scorer(images, texts):
    """Likes sample 2 of "a", 4 of "b" and 11 of "c"."""
    liked = {"a": 2, "b": 4, "c": 11}
    return np.array([-abs(int(x[0, 0, 0]) - liked[t]) for x, t in zip(images, texts)], np.float32)


@pytest.mark.parametrize("batch", [1, 3, 5, 12])
def test_the_best_candidate_is_kept_whatever_the_batch(batch):
    model, seen = Model(batch), []
    drawn = draw(model, PROMPTS, candidates=4, scorer=scorer, guidance=2.0, advance=seen.append)
    assert drawn.images[:, 0, 0, 0].tolist() == [2, 4, 11] and drawn.kept.tolist() == [2, 0, 3]
    np.testing.assert_array_equal(drawn.scores, [[-2, -1, 0, -1], [0, -1, -2, -3], [-3, -2, -1, 0]])
    assert model.tokens[:, 0].tolist() == [97] * 4 + [98] * 4 + [99] * 4
    assert sum(seen) == 12 and model.asked["guidance"] == 2.0


def test_without_a_scorer_there_is_one_candidate():
    drawn = draw(Model(2), PROMPTS)
    assert drawn.images[:, 0, 0, 0].tolist() == [0, 1, 2] and drawn.scores is None
    with pytest.raises(UserError, match="--rerank"):
        draw(Model(2), PROMPTS, candidates=2)
    with pytest.raises(UserError, match="--candidates"):
        draw(Model(2), PROMPTS, candidates=0, scorer=scorer)


def test_a_model_without_text_draws_no_prompts():
    model = Model(2)
    model.text = None
    with pytest.raises(UserError, match="not conditioned on text, so it cannot draw 'a'"):
        tokens_of(model, PROMPTS)
    with pytest.raises(UserError, match="no prompts"):
        tokens_of(Model(2), [])


def test_captions_of_a_reference_are_prompts():
    images = of_arrays("x", np.zeros((3, 2, 2, 3), np.uint8))
    known = images.with_captions(lambda: ["p", "q", "r"])
    assert captions_of(Reference("x", known), 2) == ["p", "q"]
    with pytest.raises(UserError, match="no captions"):
        captions_of(Reference("x", images), 2)


def test_the_page_shows_pictures_by_category(tmp_path):
    prompts = [
        Prompt("a <red> circle", "Arts & <Crafts>", "Basic"),
        Prompt("b", "Animals", "Quantity", 'says "so"'),
        Prompt("c", "Animals"),
    ]
    drawn = draw(Model(12), PROMPTS, candidates=4, scorer=scorer)
    prompt_page.write(tmp_path, prompts, drawn, title="runs/x & y")
    page = (tmp_path / "index.html").read_text()
    assert re.findall(r"<h2[^>]*>([^<]*)", page) == ["Animals", "Arts &amp; &lt;Crafts&gt;"]
    assert re.findall(r'src="([^"]*)"', page) == ["000001.png", "000002.png", "000000.png"]
    assert "says &quot;so&quot; · score 0.000, candidate 0 of 4" in page
    assert "a &lt;red&gt; circle" in page and "<h1>runs/x &amp; y</h1>" in page
    assert re.findall(r"\((\d)\)</a>", page) == ["2", "1"]
