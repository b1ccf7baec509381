import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.types import Progress
from genjax.process import EDM, TIMES, VE, VP, Cosine, RectifiedFlow, SubVP, Table

N = 200_000


def build(kind, **fields):
    return TIMES.build({"name": kind} | fields)


def draw(dist, process, b=N, seed=0):
    times = dist.sample(jax.random.key(seed), b, Progress(0, 0, 1), process)
    assert times.t.shape == (b,) and times.t.dtype == jnp.float32
    assert times.t_prev is None
    assert (times.weight is None) == (not getattr(dist, "unbiased", False))
    return np.asarray(times.t, np.float64)


def near(value, want, spread):
    """Within five standard errors of a mean over N draws."""
    assert abs(value - want) < 5 * spread / np.sqrt(N)


def test_uniform_covers_the_processs_range_or_its_own():
    t = draw(build("uniform"), VP())
    assert t.min() >= 1e-5 and t.max() <= 1
    near(t.mean(), 0.5, np.sqrt(1 / 12))
    near(np.mean((t - t.mean()) ** 2), 1 / 12, np.sqrt(1 / 180))
    t = draw(build("uniform", lo=0.25, hi=0.75), RectifiedFlow())
    assert 0.25 <= t.min() < 0.2501 and 0.7499 < t.max() <= 0.75
    assert draw(build("uniform"), EDM()).max() > 79.9
    t = draw(build("uniform", hi=0.999), Cosine())
    assert 0.9989 < t.max() < 0.9991 and t.min() < 1e-3


def test_index_is_uniform_on_the_tables_entries():
    t = draw(build("index"), Table(n=60))
    assert set(t) == set(range(1, 61))
    counts = np.bincount(t.astype(int), minlength=61)[1:]
    chi2 = np.sum((counts - N / 60) ** 2) / (N / 60)
    assert chi2 < 59 + 5 * np.sqrt(2 * 59)
    with pytest.raises(UserError, match="index needs a table process"):
        draw(build("index"), VP(), 4)


def test_lognormal_is_a_law_of_the_noise_level():
    log = np.log(draw(build("lognormal"), EDM()))
    near(log.mean(), -1.2, 1.2)
    near(np.mean((log + 1.2) ** 2), 1.44, 1.44 * np.sqrt(2))
    # another process sees the same noise levels from the same key
    for process, bound in ((RectifiedFlow(), 1e-4), (VE(), 1e-4), (Cosine(), 1e-4)):
        t = draw(build("lognormal"), process)
        np.testing.assert_allclose(np.log(process.lam(t)), log, atol=bound)


def test_logit_normal():
    t = draw(build("logit_normal", mean=0.5, std=0.8), RectifiedFlow())
    logit = np.log(t) - np.log1p(-t)
    near(logit.mean(), 0.5, 0.8)
    near(np.mean((logit - 0.5) ** 2), 0.64, 0.64 * np.sqrt(2))


def test_u_shaped_has_the_moments_of_the_authors_code():
    t = draw(build("u_shaped"), RectifiedFlow())
    assert t.min() >= 0 and t.max() <= 1
    near(t.mean(), 0.5, np.sqrt(0.115671))
    near(np.mean((t - 0.5) ** 2), 0.115671, 0.09)
    near(np.mean(t < 0.1), 0.17250, np.sqrt(0.1725 * 0.8275))
    near(np.mean((t > 0.4) & (t < 0.6)), 0.11325, np.sqrt(0.11325 * 0.88675))
    t = draw(build("u_shaped", lo=1e-5, hi=1 - 1e-5), RectifiedFlow())
    assert 1e-5 <= t.min() < 1e-4 and 1 - 1e-4 < t.max() <= 1 - 9e-6


def test_discrete_is_uniform_on_smlds_levels():
    t = draw(build("discrete", n=40), VE())
    i = np.round(t * 39)
    np.testing.assert_allclose(t, i / 39, atol=1e-7)
    counts = np.bincount(i.astype(int), minlength=40)
    assert counts.shape == (40,) and np.sum((counts - N / 40) ** 2) / (N / 40) < 39 + 5 * 78**0.5
    for process in (SubVP(), VP(), Table()):
        with pytest.raises(UserError, match="sub-VP has no discrete form"):
            draw(build("discrete"), process, 4)


@pytest.mark.parametrize("process", [VE(), VP(), SubVP(), EDM(), RectifiedFlow(), Table(n=60)])
def test_log_lam_is_even_in_the_log_of_the_noise_level(process):
    lo, hi = (1.0, 60.0) if isinstance(process, Table) else (0.002, 0.99)
    times = build("log_lam", lo=lo, hi=hi).sample(jax.random.key(1), N, Progress(0, 0, 1), process)
    t = np.asarray(times.t, np.float64)
    low, high = np.log(process.lam(np.array([lo, hi])))
    u = (np.log(process.lam(t)) - low) / (high - low)
    near(u.mean(), 0.5, np.sqrt(1 / 12))
    near(np.mean((u - 0.5) ** 2), 1 / 12, np.sqrt(1 / 180))
    # the weight is (uniform density)/(this density), this one being proportional to g^2/sigma^2
    density = process.diffusion2(t) / (2 * process.sigma(t) ** 2) / (high - low)
    np.testing.assert_allclose(times.weight, 1 / ((hi - lo) * density), rtol=2e-3)
    # so that expectations are those of uniform t (in a table, whose slopes jump, to 1 %)
    for f in (np.ones_like(t), (t - lo) / (hi - lo)):
        weighted = f * np.asarray(times.weight)
        exact = 1.0 if f[0] == 1 and np.all(f == 1) else 0.5
        assert abs(weighted.mean() - exact) < 5 * weighted.std() / np.sqrt(N)
    biased = build("log_lam", lo=lo, hi=hi, unbiased=False)
    np.testing.assert_array_equal(draw(biased, process, N, 1), np.asarray(times.t))


def test_log_lam_on_ve_is_edms_law_of_the_baseline():
    """ln sigma ~ U(ln 0.02, ln 100) is t uniform on VE(0.02, 100)."""
    process = VE(0.02, 100)
    log = np.log(process.sigma(draw(build("uniform", lo=0.0), process)))
    near(log.mean(), np.log(np.sqrt(2)), np.log(5000) / np.sqrt(12))
    times = build("log_lam", lo=0.0).sample(jax.random.key(0), N, Progress(0, 0, 1), process)
    np.testing.assert_allclose(times.weight, 1, rtol=1e-5)
    same = draw(build("uniform", lo=0.0), process)
    np.testing.assert_allclose(times.t, same, atol=2e-6)


def test_log_lam_needs_finite_levels():
    with pytest.raises(UserError, match="set lo or hi inside"):
        draw(build("log_lam"), RectifiedFlow(), 4)


def test_draws_depend_on_the_key_alone():
    for kind in TIMES.entries:
        dist, process = build(kind), VE() if kind == "discrete" else Table()
        assert np.array_equal(draw(dist, process, 16, 1), draw(dist, process, 16, 1))
        assert not np.array_equal(draw(dist, process, 16, 1), draw(dist, process, 16, 2))


def test_wrong_fields():
    for fields, text in [
        ({"name": "uniform", "lo": 1.0, "hi": 0.5}, "lo must be below hi"),
        ({"name": "u_shaped", "a": 0.0}, "a must lie in"),
        ({"name": "index", "lo": 1}, "unknown key"),
        ({"name": "discrete", "n": 1}, "n must be at least 2"),
        ({"name": "log_lam", "lo": 1.0, "hi": 0.5}, "lo must be below hi"),
    ]:
        with pytest.raises(UserError, match=text):
            TIMES.build(fields, "times")
