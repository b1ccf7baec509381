import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import size
from genjax.models.coca import CoCa

pytestmark = pytest.mark.slow  # both towers, compiled

SMALL = CoCa(
    size=8,
    patch=4,
    image_depth=1,
    text_depth=1,
    joint_depth=1,
    vocab=11,
    text_length=5,
    width=16,
    hidden=32,
    heads=2,
    queries=3,
    embedding=6,
)
TEXT = np.array([[3, 4, 5, 1, 0], [6, 1, 0, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def small():
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    variables = nn.unbox(SMALL.init(jax.random.key(0), x, jnp.asarray(TEXT)))
    params = variables["params"]
    apply = jax.jit(lambda p, x, t: SMALL.apply({"params": p}, x, t))
    return params, x, apply, jax.device_get(apply(params, x, TEXT))


def test_the_base_model_has_the_papers_parameters():
    x, text = jnp.zeros((1, 288, 288, 3)), jnp.zeros((1, 64), jnp.int32)
    made = jax.eval_shape(lambda: CoCa().init(jax.random.key(0), x, text))
    params = nn.unbox(made)["params"]
    of = {name: size(tree) for name, tree in params.items()}
    d, f = 768, 3072
    assert of["image"] == 12 * (4 * d * d + 2 * d * f + 4 * d)
    assert of["text"] == 12 * (4 * d * d + 2 * d * f + 4 * d)
    assert of["joint"] == 12 * (8 * d * d + 2 * d * f + 6 * d)
    image = sum(of[k] for k in ("image", "image_norm", "patches", "places"))
    text = sum(of[k] for k in ("text", "joint", "table", "softmax"))
    assert image == pytest.approx(86e6, rel=0.01) and text == pytest.approx(297e6, rel=0.01)
    assert size(params) == pytest.approx(383e6, rel=0.02)


def test_vectors_are_of_length_one(small):
    *_, out = small
    assert out["image"].shape == out["text"].shape == (2, 6) and out["logits"].shape == (2, 5, 11)
    for name in ("image", "text"):
        np.testing.assert_allclose(np.linalg.norm(out[name], axis=1), 1, rtol=1e-5)
    assert out["scale"] == pytest.approx(1 / 0.07)


def test_words_see_the_image_and_earlier_words_alone(small):
    params, x, apply, out = small
    changed = TEXT.copy()
    changed[0, 2] = 7
    other = apply(params, x, changed)
    np.testing.assert_array_equal(other["logits"][0, :3], out["logits"][0, :3])
    assert (other["logits"][0, 3] != out["logits"][0, 3]).any()
    assert (other["text"][0] != out["text"][0]).any()
    np.testing.assert_array_equal(other["text"][1], out["text"][1])
    other = apply(params, x.at[0].set(0.0), TEXT)
    assert (np.abs(other["logits"][0] - out["logits"][0]).max(axis=-1) > 0).all()
    np.testing.assert_array_equal(other["text"], out["text"])


def test_padding_is_not_seen(small):
    params, x, apply, out = small
    other = apply({**params, "table": params["table"].at[0].set(9.0)}, x, TEXT)
    np.testing.assert_array_equal(other["text"], out["text"])
    np.testing.assert_array_equal(other["logits"][0, :4], out["logits"][0, :4])
    np.testing.assert_array_equal(other["logits"][1, :2], out["logits"][1, :2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 17}, "patch"),
        ({"heads": 7}, "heads"),
        ({"queries": 0}, "queries"),
        ({"activation": "tanh"}, "activation"),
        ({"dtype": "float16"}, "dtype"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CoCa(**fields)
