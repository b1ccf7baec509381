"""Guidance by the exact classifier of a Gaussian mixture gives the conditional distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.arrays import bcast
from genjax.process import PROCESSES
from genjax.solvers import SOLVERS, noise, sample
from genjax.solvers.guidance import with_classifier
from tests.solvers import solver_toys as toys

W, MU, S = (0.3, 0.7), (-0.5, 0.4), (0.1, 0.2)


def exact(process, label):
    """Returns log p_t(label|x) [b] of x [b, 1] at t [b]."""

    def log_likelihood(x, t):
        alpha, sigma = bcast(process.alpha(t), x), bcast(process.sigma(t), x)
        variance = (alpha * jnp.array(S)) ** 2 + sigma**2
        away = x - alpha * jnp.array(MU)
        joint = jnp.log(jnp.array(W)) - 0.5 * jnp.log(variance) - away**2 / (2 * variance)
        return jax.nn.log_softmax(joint)[:, label]

    return log_likelihood


def guided(process, label, weight=1.0):
    predict = toys.predictor(toys.mixture(process, W, MU, S))
    return with_classifier(predict, process, exact(process, label), weight)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp", "edm", "flow"])
@pytest.mark.parametrize("label", [0, 1])
def test_the_guided_denoiser_is_the_conditional_one(name, label):
    process = PROCESSES.build({"name": name})
    x = jnp.linspace(-1.5, 1.5, 7)[:, None]
    for share in (0.05, 0.3, 0.8):
        t = share * process.t_max
        out, _ = guided(process, label)(x, {"t": t}, ())
        want = toys.gaussian(process, MU[label], S[label])(x, jnp.float32(t))
        np.testing.assert_allclose(out.x0, want, rtol=2e-4, atol=2e-4)


def test_the_weight_and_the_end_without_signal():
    process = PROCESSES.build({"name": "flow"})
    x = jnp.linspace(-1.5, 1.5, 7)[:, None]
    plain = toys.mixture(process, W, MU, S)(x, jnp.float32(0.5))
    one, half = (guided(process, 0, w)(x, {"t": 0.5}, ())[0].x0 for w in (1.0, 0.5))
    np.testing.assert_allclose(half, (one + plain) / 2, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(one - plain).max()) > 0.1
    at_noise = guided(process, 0)(x, {"t": 1.0}, ())[0].x0
    np.testing.assert_allclose(at_noise, toys.mixture(process, W, MU, S)(x, 1.0), rtol=1e-5)


@pytest.mark.parametrize(
    "solver",
    [{"name": "pc", "corrector": {"name": "ald", "snr": 0.1}}, {"name": "heun", "space": "lam"}],
)
def test_samples_are_of_the_class(solver):
    process = PROCESSES.build({"name": "ve", "sigma_min": 0.01, "sigma_max": 5.0})
    built = SOLVERS.build(solver).bind(process)
    grid = np.append(np.geomspace(5.0, 0.01, 60), 0.0)
    grid[:-1] = process.t_of_lam(grid[:-1])
    keys = toys.keys(4000)
    x = noise(keys, (1,), 5.0)
    run = jax.jit(lambda rows: sample(built, guided(process, 1), rows, x, keys))
    out = np.asarray(run(built.rows(grid)))
    assert abs(out.mean() - MU[1]) < 4 * S[1] / 4000**0.5 + 0.005
    assert abs(out.std() / S[1] - 1) < 0.08
