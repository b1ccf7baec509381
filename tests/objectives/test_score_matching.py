"""Score SDE's and EDM's losses: initial values, optimal values, reductions, bins of noise level."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.types import Progress, Times, View
from genjax.objectives import OBJECTIVES, Parts
from genjax.objectives.diffusion import bin_edges
from genjax.process import COUPLINGS, EDM, PRECONDS, TIMES, VE, VP, Denoiser, RectifiedFlow, SubVP
from genjax.process.table import Table

VIEW, NOW, KEY = View({}, {}, {}, {}), Progress(0, 0, 1), jax.random.key(7)
B, SIDE, STD = 4096, 4, 0.5
D = SIDE * SIDE
MINUS = {"name": "eps", "negative": True, "time": "log_sigma"}
EPS = {"name": "eps", "time_scale": 999.0}
# Name -> process, precond, law of times, reduction: the rows of score_sde.md 3.4 and 3.5.
RECIPES = {
    "VE": (VE(), MINUS, {"name": "uniform"}, "half_sum"),
    "VE discrete": (VE(), MINUS | {"time": "reverse"}, {"name": "discrete", "n": 50}, "half_sum"),
    "VP": (VP(), EPS, {"name": "uniform"}, "mean"),
    "VP discrete": (Table(), {"name": "eps"}, {"name": "index"}, "mean"),
    "sub-VP": (SubVP(), EPS, {"name": "uniform"}, "mean"),
    "EDM": (EDM(), {"name": "edm"}, {"name": "lognormal"}, "sum"),
}
FACTOR = {"mean": 1.0, "sum": D, "half_sum": D / 2}


@dataclasses.dataclass(frozen=True)
class Fixed:
    t: tuple[float, ...]

    def sample(self, key, b, progress, process):
        return Times(jnp.tile(jnp.array(self.t, jnp.float32), b // len(self.t)))


def zero(params, x, time, cond, **rest):
    return jnp.zeros_like(x)


def parts(process, precond, times, network=zero):
    return Parts(
        denoiser=Denoiser(process, PRECONDS.build(precond), network),
        times=TIMES.build(times) if isinstance(times, dict) else times,
        coupling=COUPLINGS.build({"name": "independent"}),
        prepare=lambda stream, view, key: (stream["image"], None),
        null=lambda cond: cond,
        drop=0.0,
    )


def optimal(process, precond):
    """F of the best denoiser of data N(0, STD^2), for a network that is told t itself."""
    row = PRECONDS.build(precond)

    def network(params, x, t, cond, **rest):
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        factor = (gain - row.c_skip(process, t)) / row.c_out(process, t)
        return factor[:, None, None, None] * x

    return network


def run(p, image, network=None, **objective):
    objective = OBJECTIVES.build({"name": "denoising"} | objective)

    def call(image, key):
        return objective(p, {"model": {}}, VIEW, {"main": {"image": image}}, key, NOW)

    loss, aux = jax.jit(call)(image, KEY)
    return float(loss), {k: (float(s), float(c)) for k, (s, c) in aux.metrics.items()}


def data(b=B, std=STD):
    return std * jax.random.normal(jax.random.key(0), (b, SIDE, SIDE, 1))


@pytest.mark.parametrize("name", RECIPES)
def test_initial_loss_is_one_per_dimension_at_every_time(name):
    """E[z^2] = 1; D/2 by half-sum; EDM's: on data of variance 0.25 at every noise level."""
    process, precond, times, reduction = RECIPES[name]
    weighting = {"name": "edm"} if name == "EDM" else {"name": "snr"}
    loss, metrics = run(
        parts(process, precond, times),
        data(),
        weighting=weighting,
        reduction=reduction,
        bins=4,
    )
    spread = np.sqrt(2 / D)  # of the mean square of D normal numbers
    assert loss == pytest.approx(FACTOR[reduction], abs=5 * FACTOR[reduction] * spread / B**0.5)
    found = [metrics[f"loss/bin_{i}"] for i in range(4)]
    assert sum(c for _, c in found) == B
    assert sum(s for s, _ in found) == pytest.approx(metrics["loss"][0], rel=1e-5)
    for total, count in found:
        if count:
            mean = total / count / FACTOR[reduction]
            assert abs(mean - 1) < 5 * spread / np.sqrt(count), (name, found)
    assert metrics["mse"][0] / metrics["mse"][1] == pytest.approx(1, abs=5 * spread / B**0.5)


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "EDM"])
def test_optimal_loss_of_gaussian_data(name):
    """a^2 s^2/(a^2 s^2 + std^2) per dimension: near 1 at little noise, near 0 at much."""
    process, precond, _, reduction = RECIPES[name]
    span = process.t_max - process.t_min
    t = process.t_min + span * np.array([0.0, 0.1, 0.4, 1.0])
    t = np.round(t) if isinstance(process, Table) else t
    told = precond | {"time": "t", "time_scale": 1.0}
    p = parts(process, told, Fixed(tuple(t)), optimal(process, told))
    objective = OBJECTIVES.build({"name": "denoising", "reduction": reduction})

    @jax.jit
    def losses(image):
        draw = p.draw(VIEW, {"image": image}, KEY, NOW, True)
        return objective.losses(p, draw, *p.evaluate({}, draw, KEY, True))["loss"]

    found = np.asarray(losses(data())).reshape(-1, 4).mean(0) / FACTOR[reduction]
    alpha, sigma = process.alpha(t), process.sigma(t)
    # F - F* is Gaussian too, of this variance
    want = alpha**2 * STD**2 / (alpha**2 * STD**2 + sigma**2)
    np.testing.assert_allclose(found, want, rtol=5 * np.sqrt(2 / D / (B / 4)))


def test_bins_show_the_optimum_by_noise_level():
    """The mean over each bin of the closed form; nothing lies below it."""
    process, precond, n = VP(), {"name": "eps"}, 6
    p = parts(process, precond, {"name": "uniform"}, optimal(process, precond))
    _, metrics = run(p, data(4 * B), bins=n)
    t = np.linspace(1e-5, 1, 200_001)
    alpha, sigma = process.alpha(t), process.sigma(t)
    floor = alpha**2 * STD**2 / (alpha**2 * STD**2 + sigma**2)
    index = np.searchsorted(bin_edges(process, n), process.lam(t))
    for i in range(n):
        total, count = metrics[f"loss/bin_{i}"]
        inside = floor[index == i]
        assert count / (4 * B) == pytest.approx(np.mean(index == i), abs=0.02)
        bound = 5 * np.sqrt(2 / D * np.mean(inside**2) + inside.var()) / np.sqrt(max(count, 1))
        assert abs(total / count - inside.mean()) < bound


def test_bin_edges_are_even_in_the_log_and_finite_for_every_process():
    np.testing.assert_allclose(bin_edges(EDM(0.01, 100.0), 4), [0.1, 1, 10], rtol=1e-12)
    np.testing.assert_allclose(bin_edges(RectifiedFlow(), 6), 10.0 ** np.arange(-2, 3), rtol=1e-12)
    assert bin_edges(VP(), 1).shape == (0,)


def test_half_sum_scales_the_gradient():
    def network(params, x, time, cond, **rest):
        return params * x

    def gradient(reduction):
        p = parts(VP(), EPS, {"name": "uniform"}, network)
        objective = OBJECTIVES.build({"name": "denoising", "reduction": reduction})
        batch = {"main": {"image": data(8)}}
        return jax.grad(lambda w: objective(p, {"model": w}, VIEW, batch, KEY, NOW)[0])(
            jnp.float32(0.3)
        )

    mean = gradient("mean")
    np.testing.assert_allclose(gradient("half_sum"), D / 2 * mean, rtol=1e-5)
    np.testing.assert_allclose(gradient("sum"), D * mean, rtol=1e-5)


@pytest.mark.parametrize("process", [VP(), VE(), SubVP()], ids=lambda p: type(p).__name__)
def test_likelihood_weighting_is_the_same_expectation_sampled_by_importance(process):
    """E_t[g^2 |score + z/std|^2] at F = 0 is the integral of g^2/std^2 = 2 ln(lam(1)/lam(eps))."""
    precond = MINUS if isinstance(process, VE) else EPS
    lo = 1e-3
    want = 2 * np.log(process.lam(1.0) / process.lam(lo)) / (1 - lo)
    # log_lam: constant weight times a mean of squares; uniform: heavier tails, so a wider interval
    likelihood = {"name": "likelihood"}
    importance = parts(process, precond, {"name": "log_lam", "lo": lo})
    loss, metrics = run(importance, data(), weighting=likelihood, bins=2)
    assert loss == pytest.approx(want, rel=5 * np.sqrt(2 / D / B))
    uniform = parts(process, precond, {"name": "uniform", "lo": lo})
    plain, other = run(uniform, data(16 * B), weighting=likelihood, bins=2)
    t = np.linspace(lo, 1, 100_001)
    rate = process.diffusion2(t) / process.sigma(t) ** 2
    spread = np.sqrt(rate.var() + 2 / D * np.mean(rate**2)) / np.sqrt(16 * B)
    assert abs(plain - want) < 5 * spread
    # a bin's mean does not depend on the law that sampled it
    for name in ("loss/bin_0", "loss/bin_1"):
        mean = metrics[name][0] / metrics[name][1]
        assert mean == pytest.approx(other[name][0] / other[name][1], rel=0.15)


def test_discrete_times_refuse_likelihood_weighting():
    for process, times in ((VE(), "discrete"), (Table(), "index")):
        p = parts(process, {"name": "eps"}, {"name": times})
        with pytest.raises(UserError, match=f'likelihood.*"{times}" draws discrete levels'):
            run(p, data(4), weighting={"name": "likelihood"})
    with pytest.raises(UserError, match="sub-VP has no discrete form"):
        run(parts(SubVP(), EPS, {"name": "discrete"}), data(4))


def test_wrong_fields():
    for fields, text in [
        ({"reduction": "half"}, "reduction: 'half' is unknown"),
        ({"bins": -1}, "bins must be at least 0"),
    ]:
        with pytest.raises(UserError, match=text):
            OBJECTIVES.build({"name": "denoising"} | fields, "objective")
