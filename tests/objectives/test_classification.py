"""Cross entropy by hand, its metrics and its padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.objectives.classification import Classification, cross_entropy


def logits_of(params, image, *, train, key):
    del train, key
    return image * params


def call(logits, labels, smoothing=0.0, train=True):
    batch = {"main": {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}}
    objective = Classification(label_smoothing=smoothing)
    return objective(logits_of, {"model": 1.0}, None, batch, None, None, train=train)


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], np.float32)) + 3.0
    got = cross_entropy(jnp.asarray(logits), jnp.array([2, 1]))
    np.testing.assert_allclose(got, [-np.log(0.5), -np.log(0.2)], rtol=1e-5)
    uniform = cross_entropy(jnp.asarray(logits), jnp.array([2, 1]), smoothing=0.3)
    expected = -0.7 * np.log([0.5, 0.2]) - 0.1 * np.log([0.2 * 0.3 * 0.5, 0.7 * 0.2 * 0.1])
    np.testing.assert_allclose(uniform, expected, rtol=1e-5)


def test_loss_and_accuracy_are_sums_and_counts():
    logits = np.array([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [5, 0, 0]], np.float32)
    loss, aux = call(logits, [0, 1, 0, 0])
    assert aux.metrics["accuracy"] == (3.0, 4.0)
    assert loss == pytest.approx(float(aux.metrics["loss"][0]) / 4)


def test_padding_counts_nothing():
    logits = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    whole, aux = call(logits[:4], [0, 1, 2, 0])
    padded, padded_aux = call(logits, [0, 1, 2, 0, -1, -1])
    assert float(padded) == pytest.approx(float(whole), rel=1e-6)
    assert padded_aux.metrics["accuracy"][1] == 4.0
    assert padded_aux.metrics["accuracy"][0] == aux.metrics["accuracy"][0]


def test_the_gradient_is_softmax_minus_smoothed_label():
    logits = jnp.array([[1.0, -0.5, 0.2]])
    gradient = jax.grad(lambda x: call(x, [1], smoothing=0.1)[0])(logits)
    q = np.array([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    np.testing.assert_allclose(gradient[0], jax.nn.softmax(logits)[0] - q, rtol=1e-5)


def test_held_out_labels_are_not_smoothed():
    logits = np.array([[5.0, 0, 0]], np.float32)
    assert call(logits, [0], 0.2, train=False)[0] == call(logits, [0], 0.0)[0]
    assert call(logits, [0], 0.2)[0] > call(logits, [0], 0.0)[0]


def test_smoothing_is_a_share():
    with pytest.raises(ValueError, match="label_smoothing"):
        Classification(label_smoothing=1.0)
