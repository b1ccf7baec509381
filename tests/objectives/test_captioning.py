import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.types import Progress, View
from genjax.objectives.captioning import Captioning, contrast, told

TOKENS = jnp.array([[3, 1, 0], [4, 1, 0], [5, 6, 1], [3, 1, 0]], jnp.int32)


def test_contrast_of_orthogonal_pairs():
    one = jnp.eye(4)
    scale = jnp.float32(2.0)
    losses, right = contrast(one, one, scale, TOKENS.at[3].set(7))
    np.testing.assert_allclose(losses, np.log(np.exp(2) + 3) - 2, rtol=1e-6)
    np.testing.assert_array_equal(right, 1)
    # Of the two equal texts neither is held against the other's image.
    losses, _ = contrast(one, one, scale, TOKENS)
    want = [np.log(np.exp(2) + n) - 2 for n in (2, 3, 3, 2)]
    np.testing.assert_allclose(losses, want, rtol=1e-6)
    gradient = jax.grad(lambda x: contrast(x, one, scale, TOKENS)[0].sum())(one)
    assert np.isfinite(gradient).all()


def test_contrast_is_symmetric_and_sees_both_directions():
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    there, back = (contrast(x, y, jnp.ones(()), TOKENS)[0] for x, y in ((a, b), (b, a)))
    np.testing.assert_allclose(there, back, rtol=1e-5)


def test_told_counts_no_padding():
    words = told(jnp.zeros((4, 3, 8)), TOKENS)
    np.testing.assert_allclose(words, np.log(8) * (np.asarray(TOKENS) > 0), rtol=1e-6)


def test_the_total_is_weighted():
    def outputs(params, image, tokens, *, train, key):
        logits = jnp.zeros((4, 3, 8))
        return {"image": jnp.eye(4), "text": jnp.eye(4), "logits": logits, "scale": jnp.ones(())}

    batch = {"main": {"image": jnp.zeros((4, 1, 1, 1)), "tokens": TOKENS.at[3].set(7)}}
    loss, aux = Captioning(contrastive=1.0, caption=2.0)(
        outputs,
        {"model": {}},
        View({}, {}, {}, {}),
        batch,
        jax.random.key(0),
        Progress(0, 0, 1),
    )
    pair = np.log(np.e + 3) - 1
    assert loss == pytest.approx(pair + 2 * np.log(8), rel=1e-6)
    mean = {k: float(s / c) for k, (s, c) in aux.metrics.items()}
    assert mean == pytest.approx(
        {"loss": float(loss), "contrastive": pair, "caption": np.log(8), "accuracy": 1.0}, rel=1e-6
    )
    with pytest.raises(ValueError, match="weights"):
        Captioning(caption=-1.0)
