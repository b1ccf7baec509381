"""Log-likelihoods of Gaussian data, whose every number is known, and what bits/dim count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from genjax.core.arrays import bcast
from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VE, VP, RectifiedFlow, SubVP
from genjax.solvers.likelihood import (
    ODE,
    Trace,
    bits_per_dim,
    dequantise,
    log_likelihood,
    log_prior,
    transport,
)
from tests.solvers.solver_toys import gaussian, keys

EXACT, TIGHT = Trace("exact"), ODE(rtol=1e-9, atol=1e-9)
MEAN, STD = 0.3, 0.5


def moments(process, t):
    alpha, sigma = process.alpha(np.float64(t)), process.sigma(np.float64(t))
    return alpha, (alpha * STD) ** 2 + sigma**2


def true_change(process, x, ode=TIGHT):
    """Returns (latent, log-density) of data N(MEAN, STD^2) by the exact flow map."""
    first, last = ode.span(process)
    (a0, v0), (a1, v1) = moments(process, first), moments(process, last)
    z = a1 * MEAN + np.sqrt(v1 / v0) * (x - a0 * MEAN)
    std = float(process.start_std(np.float64(last)))
    return z, norm.logpdf(z, 0, std).sum(-1) + x.shape[-1] * 0.5 * np.log(v1 / v0)


def test_the_published_numbers_of_the_gaussian_case():
    process, x = VP(), np.array([[0.8], [-0.2]])
    with jax.enable_x64(True):
        found = log_likelihood(
            process, gaussian(process, MEAN, STD), jnp.asarray(x), keys(2), TIGHT
        )
        back = transport(process, gaussian(process, MEAN, STD), found.latent, 1.0, 1e-5, TIGHT)
    found, back = jax.tree.map(np.asarray, (found, back))
    np.testing.assert_allclose(found.latent[:, 0], [1.00195408, -0.99801053], atol=1e-8)
    np.testing.assert_allclose(found.logp, [-0.72776504, -0.72382156], atol=1e-8)
    np.testing.assert_allclose(found.prior + found.change, found.logp, atol=1e-12)
    assert found.bits_per_dim(256, (-1, 1))[0] == pytest.approx(8.04994301, abs=1e-8)
    np.testing.assert_allclose(back.x, x, atol=1e-7)


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), EDM(), RectifiedFlow()])
def test_the_change_of_variables_in_float32(process):
    x = np.array([[0.8, 0.1, -0.4], [-0.2, 0.3, 1.0]])
    run = jax.jit(lambda x: log_likelihood(process, gaussian(process, MEAN, STD), x, keys(2)))
    found = run(jnp.asarray(x, jnp.float32))
    z, logp = true_change(process, x, ODE())
    assert np.asarray(found.ok).all() and found.logp.dtype == jnp.float32
    np.testing.assert_allclose(found.logp, logp, atol=1e-3)
    np.testing.assert_allclose(found.latent / process.prior_std, z / process.prior_std, atol=1e-3)


def correlated(process, covariance):
    """Returns D(x, t) of data N(0, covariance): linear, and its Jacobian is not diagonal."""
    values, vectors = np.linalg.eigh(covariance)

    def denoise(x, t):
        alpha, sigma = bcast(process.alpha(t), x), bcast(process.sigma(t), x)
        gain = alpha * values / (alpha**2 * values + sigma**2)
        return (x @ vectors * gain) @ vectors.T

    return denoise


A = np.array([[0.9, 0.2, 0.1], [0.0, 0.4, 0.3], [0.1, 0.0, 0.7]])


def test_the_exact_trace_is_what_probes_expect():
    process, covariance = VP(), A @ A.T
    data = correlated(process, covariance)
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(0, 0.5, (2, 3)))

        def run(trace, k):
            return log_likelihood(process, data, x, k, ODE(rtol=1e-6, atol=1e-6), trace)

        exact = run(EXACT, keys(2))
        # 512 solves of one probe: their mean lies within five standard errors.
        drawn = {}
        for probe in ("rademacher", "gaussian"):
            one = jax.jit(
                jax.vmap(
                    lambda k, p=probe: (
                        run(
                            Trace(p), jax.vmap(lambda i: jax.random.fold_in(k, i))(jnp.arange(2))
                        ).logp
                    )
                )
            )
            drawn[probe] = np.asarray(one(jax.random.split(jax.random.key(1), 512)))
        many = run(Trace("gaussian", 64), keys(2))
    exact, many = jax.tree.map(np.asarray, (exact, many))
    first = 1e-5
    alpha, sigma = process.alpha(np.float64(first)), process.sigma(np.float64(first))
    truth = multivariate_normal(np.zeros(3), alpha**2 * covariance + sigma**2 * np.eye(3))
    # The prior N(0, I) is not quite the law at t = 1, where alpha = 0.0066.
    np.testing.assert_allclose(exact.logp, truth.logpdf(np.asarray(x)), atol=2e-4)
    for values in drawn.values():
        error = values.std(0) / np.sqrt(len(values))
        assert np.all(error > 0) and np.all(np.abs(values.mean(0) - exact.logp) < 5 * error)
    spread = drawn["gaussian"].std(0)
    assert np.all(np.abs(many.logp - exact.logp) < 5 * spread / 8)
    assert np.all(drawn["rademacher"].std(0) < spread)


def test_probes_and_dequantisation_belong_to_the_sample():
    x = jnp.zeros((4, 2, 3))
    for trace in (Trace(), Trace("gaussian", 2)):
        whole = trace.draw(keys(4), x)
        assert whole.shape == (trace.probes, 4, 2, 3)
        np.testing.assert_array_equal(trace.draw(keys(4)[2:], x[2:]), whole[:, 2:])
    assert set(np.unique(Trace().draw(keys(4), x))) == {-1.0, 1.0}
    unit = Trace("exact").draw(keys(4), x).reshape(6, 4, 6)
    np.testing.assert_allclose(unit[:, 1], np.sqrt(6) * np.eye(6), rtol=1e-6)
    images = np.arange(12).reshape(4, 3).astype(np.uint8)
    whole = dequantise(images, keys(4), 17, (0.0, 1.0))
    np.testing.assert_array_equal(dequantise(images[1:], keys(4)[1:], 17, (0.0, 1.0)), whole[1:])


def test_the_batch_does_not_matter():
    process = VP()
    data = correlated(process, A @ A.T)
    x = jnp.asarray(np.random.default_rng(0).normal(0, 0.5, (4, 3)), jnp.float32)
    run = jax.jit(lambda x, k: log_likelihood(process, data, x, k).logp)
    np.testing.assert_allclose(run(x, keys(4))[1:3], run(x[1:3], keys(4)[1:3]), atol=2e-4)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
def test_bits_count_grey_values(levels, data_range):
    """A uniform density needs log2 of the number of levels, whatever range they are put in."""
    low, high = data_range
    logp = -12 * np.log(high - low)
    assert bits_per_dim(logp, 12, levels, data_range) == pytest.approx(np.log2(levels))
    grey = np.tile(np.arange(levels, dtype=np.uint8)[None], (50, 1))
    x = np.asarray(dequantise(grey, keys(50), levels, data_range))
    cell = np.floor((x - low) / (high - low) * levels + 1e-4)
    assert x.dtype == np.float32 and np.all(np.abs(cell - grey) <= (cell - grey == 1))
    within = (x - low) / (high - low) * levels - grey
    assert abs(within.mean() - 0.5) < 5 * np.sqrt(1 / 12 / x.size)


def test_offsets_of_the_paper():
    assert bits_per_dim(0.0, 1, 256, (-1, 1)) == 7 and bits_per_dim(0.0, 1, 256, (0, 1)) == 8


def test_the_prior():
    z = np.random.default_rng(0).normal(size=(3, 2, 4))
    np.testing.assert_allclose(
        log_prior(jnp.asarray(z, jnp.float32), 50.0), norm.logpdf(z, 0, 50).sum((1, 2)), rtol=1e-5
    )


def test_spans():
    assert ODE().span(VP()) == (1e-5, 1.0) and ODE().span(EDM()) == (0.002, 80.0)
    assert ODE().span(RectifiedFlow()) == (1e-5, 1.0)
    assert ODE(eps=1e-3, end=0.9).span(VE()) == (1e-3, 0.9)
    for ode in (ODE(eps=0.0), ODE(eps=1.0), ODE(end=1.5)):
        with pytest.raises(UserError, match="eps: must be positive and below the end"):
            ode.span(VP())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ODE(rtol=0),
        lambda: ODE(norm="all"),
        lambda: ODE(max_steps=0),
        lambda: Trace("normal"),
        lambda: Trace(probes=0),
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        wrong()
