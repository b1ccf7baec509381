import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import EDM, PROCESSES, VE, VP, Cosine, RectifiedFlow, SubVP, Table

CONTINUOUS = [VE(), VP(), SubVP(), EDM(), RectifiedFlow(), Cosine()]
ALL = [*CONTINUOUS, Table(), Table(betas="scaled_linear"), Table(betas="cosine", n=50)]


def name(p):
    return f"{type(p).__name__}-{p.betas}" if isinstance(p, Table) else type(p).__name__


every = pytest.mark.parametrize("process", ALL, ids=name)


def interior(process, count=41):
    """Times well inside the range; none is an integer, where a table's slope jumps."""
    lo, hi = process.t_min, process.t_max
    return lo + (hi - lo) * (np.linspace(0.01, 0.98, count) + 1e-4 * np.sqrt(2))


WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.25, 0.4])


def posterior_mean(process, x, t):
    """E[x_0 | x_t = x] for the mixture, and the score of p_t by differentiating its density."""
    a, s = process.alpha(t), process.sigma(t)
    var = a**2 * STDS**2 + s**2
    gap = x[..., None] - a * MEANS
    log_w = np.log(WEIGHTS) - 0.5 * gap**2 / var - 0.5 * np.log(var)
    w = np.exp(log_w - log_w.max(-1, keepdims=True))
    w /= w.sum(-1, keepdims=True)
    mean = np.sum(w * (MEANS + a * STDS**2 / var * gap), -1)
    return mean, np.sum(w * -gap / var, -1)


@every
def test_tweedie_score_is_the_mixtures(process):
    for t in interior(process, 9):
        scale = np.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)
        x = np.linspace(-2, 2, 21) * scale
        mean, score = posterior_mean(process, x, t)
        got = process.score(x, t, mean)
        assert got.dtype == np.float64
        # alpha D - x has x's rounding error, which division by sigma^2 magnifies
        bound = 1e-13 * max(1, 1e-2 / process.sigma(t) ** 2)
        np.testing.assert_allclose(got, score, rtol=1e-13, atol=bound)


@every
def test_derivatives_are_those_of_alpha_and_sigma(process):
    t = interior(process)
    h = 1e-5 * (process.t_max - process.t_min) / (1000 if isinstance(process, Table) else 1)

    def slope(f):
        return (8 * (f(t + h) - f(t - h)) - (f(t + 2 * h) - f(t - 2 * h))) / (12 * h)

    np.testing.assert_allclose(process.dalpha(t), slope(process.alpha), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(process.dsigma(t), slope(process.sigma), rtol=1e-7, atol=1e-8)


@every
def test_the_sampling_ode_is_the_same_for_every_process(process):
    # velocity = f x - g^2/2 score, and d(x/alpha)/dlam = (x/alpha - D)/lam
    t = interior(process)
    x, x0 = np.cos(7 * t), np.sin(3 * t)
    velocity = process.velocity(x, t, x0)
    flow = process.drift(t) * x - 0.5 * process.diffusion2(t) * process.score(x, t, x0)
    np.testing.assert_allclose(velocity, flow, rtol=1e-10, atol=1e-10 * np.abs(velocity).max())
    a, s, da, ds = (f(t) for f in (process.alpha, process.sigma, process.dalpha, process.dsigma))
    dlam = (ds * a - s * da) / a**2
    scaled = (velocity - process.drift(t) * x) / a / dlam
    want = (x / a - x0) / process.lam(t)
    np.testing.assert_allclose(scaled, want, rtol=1e-9, atol=1e-9 * np.abs(want).max())
    np.testing.assert_allclose(process.diffusion2(t), 2 * a**2 * process.lam(t) * dlam, rtol=1e-9)
    np.testing.assert_allclose(process.logsnr_half(t), -np.log(process.lam(t)), rtol=0, atol=1e-12)


@every
def test_eps_inverts_perturb(process):
    t = interior(process, 7)
    x0, eps = np.random.default_rng(0).normal(size=(2, 7, 3, 2))
    x = process.perturb(x0, eps, t)
    # what is left of eps in x is sigma eps beside alpha x0
    bound = 4e-15 * (1 + 1 / process.sigma(t).min())
    np.testing.assert_allclose(process.eps(x, t, x0), eps, rtol=0, atol=bound)


@every
def test_lam_and_t_are_inverse(process):
    t = interior(process)
    np.testing.assert_allclose(process.t_of_lam(process.lam(t)), t, rtol=1e-11)
    assert np.all(np.diff(process.lam(t)) > 0)
    single = process.t_of_lam(process.lam(jnp.asarray(t, jnp.float32)))
    np.testing.assert_allclose(single, t, rtol=2e-5 if isinstance(process, Table) else 1e-4)


@every
def test_graph_and_host_agree_and_differ_in_precision_only(process):
    t = np.concatenate([interior(process), [process.t_min, process.t_max]])
    traced = jax.jit(lambda t: [f(t) for f in (process.alpha, process.sigma, process.dalpha)])
    single = traced(jnp.asarray(t, jnp.float32))
    exact = np.asarray(jnp.asarray(t, jnp.float32), np.float64)  # the same times, in float64
    for got, want in zip(single, (process.alpha(exact), process.sigma(exact))):
        assert got.dtype == jnp.float32 and want.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-12)


def test_published_diffusions():
    # Score SDE: g^2 = beta for VP and beta (1 - alpha^4) for sub-VP
    assert VP().diffusion2(0.4) == pytest.approx(8.06, abs=1e-12)
    assert SubVP().diffusion2(0.4) == pytest.approx(7.75182468, abs=5e-9)
    assert np.sqrt(VE().diffusion2(0.5)) == pytest.approx(2.918423066, rel=1e-9)
    assert np.sqrt(VE().diffusion2(1.0)) == pytest.approx(206.3636740, rel=1e-9)
    np.testing.assert_allclose(EDM().diffusion2(np.array([0.5, 3.0])), [1.0, 6.0])


def test_published_values_of_score_sde():
    t = np.array([1e-5, 1e-3, 0.1, 0.5, 1])
    alpha = [0.9999994995026, 0.9999450265111, 0.9467217988206, 0.2811828807968, 0.0065715864949]
    np.testing.assert_allclose(VP().alpha(t), alpha, rtol=0, atol=1e-13)
    vp = [1.000497126e-3, 1.0485416335e-2, 0.3220525355, 0.9596542021, 0.9999784069]
    np.testing.assert_allclose(VP().sigma(t), vp, rtol=5e-10)
    sub = [1.000994499e-6, 1.0994395573e-4, 0.1037178356, 0.9209361875, 0.9999568143]
    np.testing.assert_allclose(SubVP().sigma(t), sub, rtol=5e-10)
    ve = [0.01000085176, 0.01008553568, 0.02343672912, 0.7071067812, 50]
    np.testing.assert_allclose(VE().sigma(t), ve, rtol=5e-10)
    assert VP().lam(1.0) == pytest.approx(152.16697, rel=1e-7)


def test_small_noise_survives_float32():
    # 1 - exp(-1e-6) in float32 would be wrong by up to 6 %
    got = jax.jit(VP().sigma)(jnp.float32(1e-5))
    assert float(got) == pytest.approx(1.000497126e-3, rel=1e-6)
    assert float(jax.jit(SubVP().sigma)(jnp.float32(1e-5))) == pytest.approx(1.000994e-6, rel=1e-5)


@pytest.mark.parametrize("process", [RectifiedFlow(), Cosine()], ids=name)
def test_ends_of_the_straight_and_the_cosine_path(process):
    for t in (np.array([0.0, 1.0]), jnp.array([0.0, 1.0])):
        np.testing.assert_array_equal(process.alpha(t), [1, 0])
        np.testing.assert_array_equal(process.sigma(t), [0, 1])
        np.testing.assert_array_equal(process.lam(t), [0, np.inf])
        np.testing.assert_allclose(process.t_of_lam(process.lam(t)), [0, 1], atol=1e-7)
        assert np.all(np.isfinite(process.dalpha(t))) and np.all(np.isfinite(process.dsigma(t)))


def test_priors():
    assert [p.prior_std for p in CONTINUOUS] == [50, 1, 1, 80, 1, 1]
    assert [float(p.start_std(0.5)) for p in CONTINUOUS] == pytest.approx(
        [CONTINUOUS[0].sigma(0.5), 1, 1, 0.5, 1, 1]
    )
    assert EDM(sigma_max=10).t_max == EDM(sigma_max=10).prior_std == 10
    assert EDM(sigma_min=0.1).t_min == 0.1


def test_integer_times_are_floats():
    np.testing.assert_allclose(EDM().sigma(jnp.arange(3)), [0, 1, 2])
    assert VP().alpha(1) == VP().alpha(1.0)


def test_wrong_fields_name_the_key():
    for value, text in [
        ({"name": "ve", "sigma_min": 0}, "process: sigma_min"),
        ({"name": "edm", "sigma_max": 1e-4}, "process: sigma_min"),
        ({"name": "vp", "beta_max": 0.01}, "process: beta_min"),
        ({"name": "flow", "sigma_min": 1}, "process.sigma_min: unknown key"),
        ({"name": "ddpm"}, "is no process"),
    ]:
        with pytest.raises(UserError, match=text):
            PROCESSES.build(value, "process")


@pytest.mark.parametrize("entry", PROCESSES.entries)
def test_every_process_builds_from_its_name_and_hashes(entry):
    process = PROCESSES.build({"name": entry})
    assert hash(process) == hash(PROCESSES.build({"name": entry}))
    assert 0 <= process.t_min < process.t_max
