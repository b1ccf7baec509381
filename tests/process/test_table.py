import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import PROCESSES, Table

AT = [0, 250, 500, 750, 999]
ANCHORS = {
    "linear": [0.9999, 0.52142303, 0.077796658, 0.0033001584, 4.0358298e-5],
    "scaled_linear": [0.99915, 0.67379263, 0.27633268, 0.056169848, 0.0046600985],
    "cosine": [0.99995872, 0.84588799, 0.49228517, 0.14317865, 2.4287669e-9],
}


@pytest.mark.parametrize("betas", ANCHORS)
def test_published_levels(betas):
    table = Table(betas=betas)
    np.testing.assert_allclose(table.nodes.abar[1:][AT], ANCHORS[betas], rtol=5e-8)  # printed
    np.testing.assert_allclose(
        table.nodes.abar[1:], np.cumprod(1 - table.beta_values()), rtol=1e-12
    )


def test_published_ends():
    assert Table().nodes.abar[500] == pytest.approx(0.0785872, abs=5e-8)
    assert np.sqrt(Table().nodes.abar[1000]) == pytest.approx(0.0063528, abs=5e-8)
    lam = Table().lam(np.array([1.0, 1000.0]))
    np.testing.assert_allclose(lam, [0.0100005, 157.4073], rtol=5e-7)
    lam = Table(betas="scaled_linear").lam(np.array([1.0, 1000.0]))
    np.testing.assert_allclose(lam, [0.0291672, 14.6146412], rtol=2e-6)
    assert Table(betas="cosine").lam(1000) == pytest.approx(20291, rel=1e-4)


@pytest.mark.parametrize("betas", ANCHORS)
def test_integer_times_are_the_tables_entries_exactly(betas):
    table = Table(betas=betas)
    t = np.arange(1001)
    for kind in (np.asarray(t, np.float64), jnp.asarray(t, jnp.float32)):
        dtype = np.dtype(kind.dtype)
        np.testing.assert_array_equal(table.alpha(kind), table.nodes.alpha.astype(dtype))
        np.testing.assert_array_equal(table.sigma(kind), table.nodes.sigma.astype(dtype))
    assert table.alpha(0) == 1 and table.sigma(0) == 0


def test_log_lam_is_linear_between_entries_and_lam_below_the_first():
    table = Table()
    log = np.log(table.lam(np.array([7.0, 7.25, 8.0])))
    assert log[1] == pytest.approx(0.75 * log[0] + 0.25 * log[2], abs=1e-14)
    assert table.lam(0.25) == pytest.approx(0.25 * table.lam(1.0), rel=1e-14)
    t = np.linspace(0, 1000, 5003)
    np.testing.assert_allclose(table.alpha(t) ** 2 + table.sigma(t) ** 2, 1, atol=1e-15)
    np.testing.assert_allclose(table.t_of_lam(table.lam(t)), t, atol=1e-8)
    single = jax.jit(table.sigma)(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(single, table.sigma(np.float32(t)), rtol=1e-6)


def test_slopes_at_an_entry_are_those_of_the_segment_below():
    table, t = Table(), np.array([1.0, 2.0, 500.0, 1000.0])
    h = 1e-5
    for value, slope in ((table.alpha, table.dalpha), (table.sigma, table.dsigma)):
        below = (3 * value(t) - 4 * value(t - h) + value(t - 2 * h)) / (2 * h)
        np.testing.assert_allclose(slope(t), below, rtol=1e-6, atol=1e-10)
    assert table.dsigma(0) == pytest.approx(table.lam(1.0))
    assert np.all(np.isfinite(table.dsigma(np.linspace(0, 1000, 77))))


def test_another_length_keeps_the_total_noise():
    # both ends scaled by 1000/N, as the DDPM and DiT code does
    betas = Table(n=100).beta_values()
    assert betas[0] == pytest.approx(1e-3) and betas[-1] == pytest.approx(0.2)
    assert Table(n=100, lo=2e-4, hi=1e-2).beta_values()[0] == pytest.approx(2e-3)
    root = np.sqrt(Table(betas="scaled_linear", lo=1e-3, hi=1e-2).beta_values())
    np.testing.assert_allclose(np.diff(root), np.diff(root)[0], rtol=1e-9)
    assert root[0] ** 2 == pytest.approx(1e-3) and root[-1] ** 2 == pytest.approx(1e-2)


def test_given_betas():
    table = Table(betas="given", n=3, values=(0.1, 0.2, 0.5))
    np.testing.assert_allclose(table.nodes.abar, [1, 0.9, 0.72, 0.36], rtol=1e-15)
    assert table.t_min == 1 and table.t_max == 3


def test_wrong_tables_say_so():
    for fields, text in [
        ({"betas": "quadratic"}, "betas: 'quadratic' is unknown"),
        ({"betas": "given", "n": 3, "values": (0.1, 0.2)}, "values must hold n = 3"),
        ({"values": (0.1,)}, "values must hold"),
        ({"betas": "given", "n": 2, "values": (0.1, 1.0)}, "strictly between 0 and 1"),
        ({"betas": "cosine", "hi": 0.1}, "lo and hi belong to"),
        ({"n": 10}, "strictly between 0 and 1"),
        ({"n": 1}, "n must be at least 2"),
        ({"betas": "scaled_linear", "lo": -0.1}, "lo and hi must be positive"),
    ]:
        with pytest.raises(UserError, match=text):
            PROCESSES.build({"name": "table"} | fields, "process")
