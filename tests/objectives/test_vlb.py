import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.objectives.vlb import discretised_nll, log_variance, posterior, vlb_bits
from genjax.process import Table

DDPM = Table()
bits = jax.jit(vlb_bits, static_argnums=(0, 5))
TABLES = [DDPM, Table(betas="cosine", n=60), Table(betas="scaled_linear", n=200)]


def ids(table):
    return f"{table.betas}-{table.n}"


def at_init(table, t):
    """The bound for eps_hat = 0 and v = 0: |D - x0| = sigma/alpha per unit of noise."""
    t = jnp.asarray(t, jnp.float32)
    x0 = jnp.zeros((t.size, 4))
    error = -table.lam(t)[:, None] * jnp.array([1.0, -1.0, 1.0, -1.0])
    return np.asarray(bits(table, t, x0, error, jnp.zeros_like(x0), 256))


def test_published_values_at_initialisation():
    # the sheet counts the table's entries from 0: entry i is t = i + 1
    got = at_init(DDPM, np.array([1, 2, 10, 100, 500, 998, 999]) + 1)
    want = [0.632713, 0.378853, 0.107784, 0.014582, 0.0079523, 0.0147070, 0.0147220]
    np.testing.assert_allclose(got, want, rtol=0, atol=5.5e-7)
    assert at_init(DDPM, np.arange(2, 1001)).mean() == pytest.approx(0.0141642, abs=5e-8)


def test_published_variances():
    at = posterior(DDPM)
    assert at.log_btilde[2] == pytest.approx(-9.81672514, abs=5e-9)
    assert at.log_beta[1] == pytest.approx(-9.21034037, abs=5e-9)
    assert at.log_btilde[1] == at.log_btilde[2]  # btilde is 0 there


@pytest.mark.parametrize("table", TABLES, ids=ids)
def test_posterior_is_bayes_rule(table):
    at, beta = posterior(table), table.beta_values()
    abar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    t = np.arange(2, table.n + 1)
    precision = 1 / (1 - abar[t - 1]) + (1 - beta[t - 1]) / beta[t - 1]
    np.testing.assert_allclose(at.log_btilde[2:], -np.log(precision), rtol=0, atol=1e-10)
    c1 = np.sqrt(abar[t - 1]) / (1 - abar[t - 1]) / precision
    c2 = np.sqrt(1 - beta[t - 1]) / beta[t - 1] / precision
    np.testing.assert_allclose(at.c1[2:], c1, rtol=1e-10)
    np.testing.assert_allclose(at.c2[2:], c2, rtol=1e-10)
    assert at.c1[1] == pytest.approx(1, abs=1e-12) and at.c2[1] == 0


@pytest.mark.parametrize("table", TABLES, ids=ids)
def test_bound_is_the_divergence_of_the_two_gaussians(table):
    rng = np.random.default_rng(0)
    t = np.array([2, 5, table.n // 2, table.n])
    error, v = rng.normal(size=(2, 4, 3)) * [[[0.1]], [[0.5]]]
    got = bits(table, jnp.asarray(t), jnp.zeros((4, 3)), *map(jnp.asarray, (error, v)), 256)
    at = posterior(table)
    share = (v + 1) / 2
    log_var = share * at.log_beta[t, None] + (1 - share) * at.log_btilde[t, None]
    np.testing.assert_allclose(
        log_variance(table, jnp.asarray(t), jnp.asarray(v)), log_var, rtol=2e-6
    )
    gap = at.c1[t, None] * error
    # E_q[log q - log p] by Gauss-Hermite quadrature, exact for the quadratic integrand
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    z = node[:, None, None] * np.exp(at.log_btilde[t, None] / 2)
    log_q = -0.5 * (at.log_btilde[t, None] + z**2 * np.exp(-at.log_btilde[t, None]))
    log_p = -0.5 * (log_var + (z - gap) ** 2 * np.exp(-log_var))
    kl = np.einsum("n,nbd->bd", weight / weight.sum(), log_q - log_p)
    np.testing.assert_allclose(got, kl.mean(1) / np.log(2), rtol=2e-4, atol=1e-7)


def test_first_step_is_a_likelihood_in_bins():
    # probabilities of all bins sum to 1, and the edge bins reach to infinity
    nll = jax.jit(discretised_nll, static_argnums=3)
    for levels in (256, 17):
        grey = jnp.linspace(-1, 1, levels)
        for mean, log_var in ((0.1, -2.0), (-1.3, -1.0), (0.99, -6.0)):
            p = jnp.exp(-nll(grey, jnp.float32(mean), jnp.float32(log_var), levels))
            assert float(p.sum()) == pytest.approx(1, abs=2e-5)
    # by hand: x0 = D, log variance -9 (v chosen), 256 levels
    at = posterior(DDPM)
    v = 2 * (-9 - at.log_btilde[1]) / (at.log_beta[1] - at.log_btilde[1]) - 1
    x0 = jnp.array([[0.2, 0.9995, -1.0]])
    got = bits(DDPM, jnp.array([1]), x0, jnp.zeros_like(x0), jnp.full_like(x0, v), 256)
    z = np.exp(4.5) / 255
    inner = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    want = -(np.log(inner) + 2 * np.log(0.5 + 0.5 * inner)) / 3 / np.log(2)
    assert float(got[0]) == pytest.approx(want, rel=1e-4)
    # a hopeless estimate costs the floor, -log2 1e-12, not infinity
    worst = bits(DDPM, jnp.array([1]), x0[:, :1], x0[:, :1] + 9, 0 * x0[:, :1], 256)
    assert float(worst[0]) == pytest.approx(12 * np.log2(10), rel=1e-5)


def test_gradients_are_finite_at_every_time_even_for_wild_estimates():
    t = jnp.array([1.0, 2.0, 500.0, 1000.0])
    x0 = jnp.ones((4, 3)) * jnp.array([-1.0, 0.3, 5.0])

    def loss(error, v):
        return jnp.sum(vlb_bits(DDPM, t, x0, error, v, 256))

    for size in (0.0, 1.0, 1e12):
        grads = jax.jit(jax.grad(loss, (0, 1)))(jnp.full_like(x0, size), jnp.full_like(x0, 0.2))
        assert all(np.all(np.isfinite(g)) for g in grads)
