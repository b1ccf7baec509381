import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.data import Source, StreamSettings, open_once, open_source, open_stream
from genjax.data.captions import NAMES, TEMPLATES, Captioned


def test_digits_are_captioned_by_their_labels():
    source, plain = open_source("captioned:digits:test"), open_source("digits:test")
    assert (len(source), source.levels, source.num_classes, source.split) == (360, 17, 10, "test")
    used = set()
    for i in range(len(source)):
        record = source[i]
        assert np.array_equal(record["image"], plain[i]["image"])
        name = NAMES["digits"][record["label"]]
        template = record["caption"].replace(name, "{}")
        assert template in TEMPLATES and source.caption(i) == record["caption"]
        used.add(template)
    assert used == set(TEMPLATES)
    assert NAMES["digits"][7] == "the digit seven" and len(NAMES["fashion_mnist"]) == 10


def test_names_and_templates_may_be_given():
    names = tuple(f"number {k}" for k in range(10))
    source = Captioned({"name": "digits", "split": "test"}, ("look, {}!",), names).open()
    assert source[3]["caption"] == f"look, number {source[3]['label']}!"
    with pytest.raises(UserError, match="9 names for 10 classes"):
        Captioned("digits", names=names[:9]).open()
    with pytest.raises(UserError, match="no labels"):
        Captioned("shapes").open()
    with pytest.raises(ValueError, match=r"one \{\}"):
        Captioned(templates=("a picture",))
    other = Captioned({"name": "synthetic", "classes": 3}).open()  # its own class names
    assert "direction 2" in other.caption(2)


class Several(Source):
    """Elements with three captions each."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"label": np.int32(i), "caption": f"{i} a\n{i} b \n\n{i} c"}

    num_classes = 8


def captions(opened, count):
    batches = [next(opened) for _ in range(count)]
    opened.close()
    label, caption = (np.concatenate([b[k] for b in batches]) for k in ("label", "caption"))
    assert all(str(c).startswith(f"{k} ") for k, c in zip(label, caption))
    return [str(c)[2:] for c in caption]


def test_one_of_several_captions_is_drawn_anew_every_epoch():
    settings = StreamSettings(source=None, batch=4, fields=("label", "caption"))
    drawn = captions(open_stream(settings, source=Several()), 60)
    assert set(drawn) == {"a", "b", "c"} and max(map(drawn.count, "abc")) < 120
    assert drawn[40:] == captions(open_stream(settings, source=Several(), start=40), 50)
    assert drawn != captions(open_stream(settings, source=Several(), seed=1), 60)
    assert captions(open_once(settings, source=Several()), 2) == ["a"] * 8
