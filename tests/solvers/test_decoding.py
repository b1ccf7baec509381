import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.solvers.decoding import Categorical, CodeGuidance

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def frequencies(solver, temperature, n=4000):
    keys = jax.random.split(jax.random.key(0), n)
    codes = solver.draw(jnp.tile(LOGITS, (n, 1)), temperature, keys)
    return np.bincount(codes, minlength=4) / n


@pytest.mark.parametrize(
    ("fields", "temperature", "law"),
    [
        ({}, 1.0, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, 1.0, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.79}, 1.0, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.81}, 1.0, [0.5263, 0.3158, 0.1579, 0]),
        ({"top_p": 0.01}, 1.0, [1, 0, 0, 0]),
        ({}, 0.5, [0.6849, 0.2466, 0.0616, 0.0068]),
        ({"top_p": 0.7}, 0.5, [0.7353, 0.2647, 0, 0]),
        ({}, 0.0, [1, 0, 0, 0]),
    ],
)
def test_laws(fields, temperature, law):
    found = frequencies(Categorical(**fields), temperature)
    np.testing.assert_allclose(found, law, atol=0.03)
    np.testing.assert_array_equal(found[np.array(law) == 0], 0)


def test_guidance_of_two_codes():
    """Null (0, 0), conditional (ln 3, 0), w = 2: probabilities 0.9 and 0.1."""
    both = jnp.array([[jnp.log(3.0), 0.0], [0.0, 0.0]])
    predict = CodeGuidance(2.0).wrap(lambda previous, t, cache: (both, cache), doubled=True)
    row = {"t": jnp.int32(0), "w": jnp.float32(2.0)}
    out, _ = predict(jnp.zeros((1, 3), jnp.int32), row, ())
    np.testing.assert_allclose(jax.nn.softmax(out.x0), [[0.9, 0.1]], rtol=1e-6)


def test_schedules():
    np.testing.assert_allclose(CodeGuidance(3.0).weights(4), 3.0)
    linear = CodeGuidance(3.0, schedule="linear", ramp=0.5).weights(4)
    np.testing.assert_allclose(linear, [1, 2, 3, 3])
    cosine = CodeGuidance(3.0, schedule="cosine", stop=0.75).weights(4)
    np.testing.assert_allclose(cosine, [1, 2 - np.sqrt(0.5), 2, 1])
    assert Categorical().rows(6, 2)["t"].tolist() == [2, 3, 4, 5]
