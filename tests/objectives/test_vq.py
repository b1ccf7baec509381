"""Losses of the tokenizer and its GAN in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.types import Progress, View
from genjax.objectives import gan, vq

STILL = Progress(0, 0, 1)


@pytest.mark.parametrize(
    ("x", "mu", "log_b", "want"),
    [
        (0.5, 0.0, 0.0, -0.693147),
        (0.0, 0.0, 0.0, 0.482426),
        (1.0, 0.0, 0.0, 0.482426),
        (0.25, 0.3, -1.0, 1.251178),
    ],
)
def test_likelihood_of_squeezed_pixels(x, mu, log_b, want):
    # DALL-E's squeeze with eps = 0.1
    found = vq.logit_laplace_nll(jnp.float32(0.8 * x + 0.1), mu, log_b)
    assert float(found) == pytest.approx(want, abs=2e-6)


def test_the_density_integrates_to_one():
    u = np.linspace(-30, 30, 400_001)  # over logit x: dx = x (1 - x) du
    x = 1 / (1 + np.exp(-u))
    inside = (x > 1e-4) & (x < 1 - 1e-4)
    x, u = x[inside], u[inside]
    nll = vq.logit_laplace_nll(jnp.asarray(x, jnp.float32), 0.3, np.log(0.7))
    mass = np.trapezoid(np.exp(-np.asarray(nll, np.float64)) * x * (1 - x), u)
    tails = 0.5 * (np.exp((u[0] - 0.3) / 0.7) + np.exp(-(u[-1] - 0.3) / 0.7))
    assert mass + tails == pytest.approx(1, abs=2e-5)


def test_the_best_scale_is_the_residual_and_the_ends_are_finite():
    x, mu = 0.4, 0.2
    residual = abs(np.log(x / (1 - x)) - mu)
    floor = np.log(2 * residual) + 1 + np.log(x * (1 - x))
    best = vq.logit_laplace_nll(jnp.float32(x), mu, np.log(residual))
    assert float(best) == pytest.approx(floor, abs=1e-5)
    slope = jax.grad(lambda s: vq.logit_laplace_nll(jnp.float32(x), mu, s))(np.log(residual))
    assert abs(float(slope)) < 1e-5
    assert np.all(np.isfinite(vq.logit_laplace_nll(jnp.asarray([0.0, 1.0]), 0.0, -7.0)))


def test_usage_and_perplexity():
    counts = vq.histogram(jnp.asarray([[0, 1, 1], [3, 3, 0]]), 8)
    assert counts.tolist() == [2, 2, 0, 2, 0, 0, 0, 0]
    assert float(vq.perplexity(counts)) == pytest.approx(3, rel=1e-6)
    assert float(vq.perplexity(vq.histogram(jnp.zeros(5, jnp.int32), 8))) == pytest.approx(1)


def test_psnr():
    x = jnp.zeros((2, 4, 4, 1))
    y = jnp.stack([jnp.full((4, 4, 1), 0.1), jnp.full((4, 4, 1), 0.01)])
    np.testing.assert_allclose(vq.psnr(y, x), [20, 40], rtol=1e-5)


def linear(networks, x):
    return x.reshape(len(x), -1) @ networks["discriminator"]


def pixels(stream):
    return stream["image"]


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {"main": {"image": rng.uniform(size=(6, 2, 2, 1)).astype(np.float32)}}


def test_logistic_losses_of_a_blind_discriminator():
    adversary = gan.Adversary()
    view = View({}, {}, {}, {})
    trained = {"discriminator": jnp.zeros(4)}
    made = lambda networks, x: 1 - x  # noqa: E731
    loss, aux = adversary.loss(pixels, made, linear, trained, view, batch(), None, STILL)
    assert float(loss) == pytest.approx(np.log(2), rel=1e-6)
    assert float(gan.generator_loss(jnp.zeros(()))) == pytest.approx(np.log(2), rel=1e-6)
    assert not aux.mutable and set(aux.metrics) == {"loss", "real", "fake", "right"}


def test_r1_of_a_linear_discriminator():
    w = jnp.asarray([1.0, -2.0, 0.5, 3.0])
    adversary = gan.Adversary(r1=10.0, r1_every=16)
    view = View({}, {}, {}, {})

    def loss(w):
        networks = {"discriminator": w}
        return adversary.penalty(pixels, linear, networks, view, batch(), None, STILL)[0]

    want = 16 * 5 * float(w @ w)
    assert float(loss(w)) == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(w), 160 * w, rtol=1e-5)


def test_lecam_pulls_towards_the_other_mean_and_remembers():
    adversary = gan.Adversary(lecam=0.5, lecam_decay=0.75)
    w = jnp.asarray([1.0, 1.0, 1.0, 1.0])
    view = View({}, {"discriminator": {"lecam": {"real": 2.0, "fake": -1.0}}}, {}, {})
    made = lambda networks, x: jnp.zeros_like(x)  # noqa: E731
    images = batch()
    trained = {"discriminator": w}
    loss, aux = adversary.loss(pixels, made, linear, trained, view, images, None, STILL)
    real = images["main"]["image"].reshape(6, -1).sum(1).astype(np.float64)
    plain = 0.5 * (np.log1p(np.exp(-real)) + np.log(2))
    want = np.mean(plain + 0.5 * ((real + 1) ** 2 + (0 - 2) ** 2))
    assert float(loss) == pytest.approx(want, rel=1e-5)
    means = aux.mutable["discriminator"]["lecam"]
    assert float(means["real"]) == pytest.approx(0.75 * 2 + 0.25 * real.mean(), rel=1e-5)
    assert float(means["fake"]) == pytest.approx(-0.75)


def test_idle_codes_are_counted_and_revived():
    loss = vq.VQGANLoss(dead_after=3, revive=True)
    state = loss.state(4, 2)
    point = jnp.arange(12.0).reshape(1, 6, 2)
    for _ in range(3):
        state = loss._observed(state, jnp.asarray([5, 0, 1, 0]), point, jax.random.key(0))
    assert state["idle"].tolist() == [0, 3, 0, 3]
    rows = {tuple(r) for r in np.asarray(point[0]).tolist()}
    assert all(tuple(r) in rows for r in np.asarray(state["points"]).tolist())
    asked = {}

    def revived(encoder, dead, points):
        asked.update(dead=dead.tolist(), points=points)
        return {"new": encoder["old"]}

    params, mutable = loss.revised(
        revived, {"encoder": {"old": 1}, "decoder": 2}, {"encoder": {"codes": state}, "x": 3}
    )
    assert asked["dead"] == [False, True, False, True]
    assert params == {"encoder": {"new": 1}, "decoder": 2} and mutable["x"] == 3
    assert mutable["encoder"]["codes"]["idle"].tolist() == [0, 0, 0, 0]
