import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.types import Progress, Times, View
from genjax.objectives import OBJECTIVES, Parts
from genjax.objectives.diffusion import drop_condition
from genjax.process import COUPLINGS, PRECONDS, TIMES, VP, Cosine, Denoiser, RectifiedFlow, Table

VIEW = View({}, {}, {}, {})
NOW = Progress(0, 0, 1)
KEY = jax.random.key(3)
SEEN = {}


def affine(params, x, time, cond, *, train, key, inputs, features):
    SEEN.update(cond=cond, train=train, key=key)
    return params["scale"] * x + params["shift"]


def learned(params, x, time, cond, **rest):
    out = affine(params, x, time, cond, **rest)
    return jnp.concatenate([out, params["v"] * jnp.ones_like(x)], -1)


PARAMS = {k: jnp.float32(v) for k, v in {"scale": 0.3, "shift": 0.1, "v": 0.2}.items()}


@dataclasses.dataclass(frozen=True)
class Fixed:
    t: tuple[float, ...]
    weight: tuple[float, ...] | None = None

    def sample(self, key, b, progress, process):
        weight = None if self.weight is None else jnp.array(self.weight)
        return Times(jnp.array(self.t, jnp.float32), None, weight)


def prepare(stream, view, key):
    return stream["image"], {k: v for k, v in stream.items() if k in ("label", "text")} or None


def null(cond):
    return {k: jnp.full_like(v, 10) for k, v in cond.items()}


def parts(process, kind="velocity", times=None, network=affine, drop=0.0, **fields):
    return Parts(
        denoiser=Denoiser(process, PRECONDS.build({"name": kind} | fields), network),
        times=times or TIMES.build({"name": "uniform"}),
        coupling=COUPLINGS.build({"name": "independent"}),
        prepare=prepare,
        null=null,
        drop=drop,
    )


def batch(b, **extra):
    image = jax.random.normal(jax.random.key(0), (b, 4, 4, 1))
    return {"main": {"image": image} | extra}


def run(objective, p, data, params=PARAMS, train=True, compiled=False):
    objective = OBJECTIVES.build(objective)

    def call(params, data, key):
        return objective(p, {"model": params}, VIEW, data, key, NOW, train=train)

    return (jax.jit(call) if compiled else call)(params, data, KEY)


def test_loss_is_the_mean_square_of_the_networks_error():
    t = (0.2, 0.9)
    p, data = parts(RectifiedFlow(), times=Fixed(t)), batch(2)
    loss, aux = run({"name": "flow"}, p, data)
    draw = p.draw(VIEW, data["main"], KEY, NOW, True)
    f = 0.3 * draw.x + 0.1
    want = np.mean((np.asarray(f) - np.asarray(draw.eps - draw.x0)) ** 2)
    assert float(loss) == pytest.approx(want, rel=1e-5)
    total, count = aux.metrics["loss"]
    assert count == 2 and float(total / count) == pytest.approx(float(loss))
    wide = jnp.array(t)[:, None, None, None]
    np.testing.assert_allclose(draw.x, (1 - wide) * draw.x0 + wide * draw.eps, rtol=1e-6)


def test_times_weight_enters_once():
    p, data = parts(RectifiedFlow(), times=Fixed((0.3, 0.6), (2.0, 0.0))), batch(2)
    q = parts(RectifiedFlow(), times=Fixed((0.3, 0.6)))
    weighted, aux = run({"name": "denoising"}, p, data)
    draw = q.draw(VIEW, data["main"], KEY, NOW, True)
    first = q.evaluate(PARAMS, draw, KEY, True)[1][0]
    assert float(weighted) == pytest.approx(float(jnp.mean(first**2)), rel=1e-5)
    assert set(aux.metrics) == {"loss", "mse"}


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), Cosine(), Table()], ids=repr)
def test_one_estimate_has_one_loss_whatever_the_network_predicts(process):
    # a network that always estimates x0 as 0, written in every parametrisation
    data, times = batch(2), Fixed((0.2, 0.9))
    kinds = ["eps", "x0", "v", "velocity", "score", "edm"]
    if isinstance(process, Table):
        times = Fixed((20.0, 900.0))
        del kinds[3:]
    t = jnp.array(times.t)[:, None, None, None]
    objectives = (
        {"name": "denoising", "target": "eps"},
        {"name": "denoising", "weighting": {"name": "min_snr", "gamma": 2.0}},
        {"name": "denoising", "target": "x0", "weighting": {"name": "edm"}},
        {"name": "flow", "weighting": "velocity"},
        {"name": "flow", "weighting": "likelihood"},
    )

    def zero(kind):
        own = PRECONDS.build({"name": kind})

        def apply(params, x, time, cond, **rest):
            return -own.c_skip(process, t) / own.c_out(process, t) * (x / own.c_in(process, t))

        return parts(process, kind, times, apply)

    draw = zero("x0").draw(VIEW, data["main"], KEY, NOW, True)

    @jax.jit
    def losses(draw):
        rows = []
        for objective in map(OBJECTIVES.build, objectives):
            ready = [(p, *p.evaluate({}, draw, KEY, False)) for p in map(zero, kinds)]
            rows.append([objective.losses(p, draw, *rest)["loss"].mean() for p, *rest in ready])
        return rows

    got = np.array(losses(draw))
    np.testing.assert_allclose(got, np.broadcast_to(got[:, 1:2], got.shape), rtol=3e-4)
    snr = 1 / process.lam(np.array(times.t)) ** 2
    square = np.mean(np.asarray(draw.x0) ** 2, (1, 2, 3))
    for row, weight in ((0, snr), (1, np.minimum(snr, 2)), (2, snr + 4)):
        np.testing.assert_allclose(got[row], np.mean(weight * square), rtol=3e-4)


def test_published_weights_of_the_interpolants():
    # SiT: noise loss w (out - eps)^2, score loss w (sigma out + eps)^2, w in {1, lam^2, lam/sigma},
    # lam = ((alpha'/alpha) sigma^2 - sigma sigma')/sigma in the authors' reversed time
    data, times = batch(2), (0.3, 0.8)
    t = np.array(times)
    for process in (RectifiedFlow(), Cosine(), VP()):
        sigma = process.sigma(t)
        lam = process.dsigma(t) - process.dalpha(t) / process.alpha(t) * sigma
        for kind, sign in (("eps", -1), ("score", 1)):
            p = parts(process, kind, Fixed(times))
            draw = p.draw(VIEW, data["main"], KEY, NOW, True)
            out = np.asarray(0.3 * draw.x + 0.1)
            scale = sigma[:, None, None, None] if kind == "score" else 1
            error = np.mean((scale * out + sign * np.asarray(draw.eps)) ** 2, (1, 2, 3))
            for name, w in (("uniform", 1), ("velocity", lam**2), ("likelihood", lam / sigma)):
                got = float(run({"name": "flow", "weighting": name}, p, data)[0])
                assert got == pytest.approx(np.mean(w * error), rel=1e-4), (process, kind, name)


def test_edm_loss_is_one_for_a_zero_network_on_standardised_data():
    p = parts(VP(), "edm", sigma_data=1.0)
    zero = {"scale": jnp.float32(0), "shift": jnp.float32(0)}
    data = {"main": {"image": jax.random.normal(jax.random.key(1), (512, 8, 8, 1))}}
    loss, _ = run({"name": "denoising", "weighting": {"name": "edm", "sigma_data": 1.0}}, p, data)
    assert float(loss) != pytest.approx(1, abs=0.02)
    loss, _ = run(
        {"name": "denoising", "weighting": {"name": "edm", "sigma_data": 1.0}}, p, data, params=zero
    )
    assert float(loss) == pytest.approx(1, abs=5 * np.sqrt(2 / 512 / 64))


@pytest.mark.parametrize("kind", ["velocity", "x0", "v", "edm"])
@pytest.mark.parametrize("objective", ["flow", "denoising"])
def test_loss_and_gradients_are_finite_at_both_ends(kind, objective):
    p = parts(RectifiedFlow(), kind, Fixed((0.0, 1.0)))
    value, grads = jax.value_and_grad(lambda q: run({"name": objective}, p, batch(2), params=q)[0])(
        PARAMS
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g) for g in jax.tree.leaves(grads))
    assert float(grads["scale"]) != 0


def test_conditions_drop_together_at_the_asked_rate():
    b = 20_000
    cond = {"label": jnp.zeros((b,), jnp.int32), "text": jnp.zeros((b, 3, 2))}
    got = drop_condition(KEY, cond, null(cond), 0.1, b)
    assert got["label"].dtype == jnp.int32 and got["text"].shape == (b, 3, 2)
    gone = np.asarray(got["label"]) == 10
    assert abs(gone.mean() - 0.1) < 5 * np.sqrt(0.09 / b)
    # one mask for all leaves, whole samples only
    want = np.broadcast_to(np.where(gone, 10, 0)[:, None, None], (b, 3, 2))
    np.testing.assert_array_equal(got["text"], want)


def test_dropout_is_for_training_only():
    data = batch(2, label=jnp.arange(2), text=jnp.ones((2, 2)))
    p = parts(RectifiedFlow(), drop=1.0)
    run({"name": "flow"}, p, data)
    assert np.all(SEEN["cond"]["label"] == 10) and np.all(SEEN["cond"]["text"] == 10)
    assert SEEN["train"] is True and SEEN["key"] is not None
    run({"name": "flow"}, p, data, train=False)
    np.testing.assert_array_equal(SEEN["cond"]["label"], np.arange(2))
    assert SEEN["train"] is False and SEEN["key"] is None
    # the draw itself is the same: held-out losses at a fixed key compare networks
    draws = [p.draw(VIEW, data["main"], KEY, NOW, train) for train in (True, False)]
    np.testing.assert_array_equal(draws[0].x, draws[1].x)
    run({"name": "flow"}, p, batch(2))
    assert SEEN["cond"] is None
    with pytest.raises(ValueError, match=r"drop must lie in \[0, 1\]"):
        parts(VP(), drop=1.5)


def test_draws_for_data_noise_and_times_are_distinct_and_named():
    p, data = parts(RectifiedFlow(), drop=0.5), batch(64, label=jnp.arange(64) % 10)
    one = p.draw(VIEW, data["main"], KEY, NOW, True)
    again = p.draw(VIEW, data["main"], KEY, NOW, True)
    other = p.draw(VIEW, data["main"], jax.random.key(4), NOW, True)
    for name in ("x", "t", "eps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    gone = np.asarray(one.cond["label"]) == 10
    assert abs(np.corrcoef(gone, np.asarray(one.t))[0, 1]) < 0.5


def hybrid(times=None, network=learned, kind="eps", process=None, drop=0.0):
    times = times or TIMES.build({"name": "index"})
    return parts(process or Table(), kind, times, network, drop)


def test_hybrid_trains_the_mean_by_mse_and_the_variance_by_the_bound_alone():
    p, data = hybrid(), batch(2)

    def means(params):
        metrics = run({"name": "hybrid"}, p, data, params)[1].metrics
        return {name: total / count for name, (total, count) in metrics.items()}

    part = jax.jit(jax.jacrev(means))(PARAMS)
    vb, mse, loss = part["vb"], part["mse"], part["loss"]
    assert float(vb["scale"]) == float(vb["shift"]) == 0 and abs(float(vb["v"])) > 1e-6
    assert float(mse["v"]) == 0 and abs(float(mse["scale"])) > 1e-3
    for name in PARAMS:
        assert float(loss[name]) == pytest.approx(float(vb[name] + mse[name]), rel=1e-5, abs=1e-9)


def test_hybrid_at_initialisation():
    # eps_hat = 0: mse 1 per element; the bound's mean over t > 1 is the sheet's 0.0141642
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    data = {"main": {"image": jax.random.normal(jax.random.key(1), (4000, 4, 4, 1))}}
    loss, aux = run({"name": "hybrid"}, hybrid(), data, params=zero, compiled=True)
    mean = {k: float(s / n) for k, (s, n) in aux.metrics.items()}
    assert mean["mse"] == pytest.approx(1, abs=5 * np.sqrt(2 / 64000))
    assert mean["loss"] == pytest.approx(mean["mse"] + mean["vb"], rel=1e-6)
    assert float(loss) == pytest.approx(mean["loss"], rel=1e-6)
    assert 0.01 < mean["vb"] < 0.04
    t = np.asarray(hybrid().draw(VIEW, data["main"], KEY, NOW, True).t)
    assert set(t) <= set(range(1, 1001)) and t.min() < 5 and t.max() > 995


@pytest.mark.parametrize("times", [(1, 1), (1, 2), (1000, 500)])
def test_hybrid_gradients_are_finite_at_the_ends_of_the_table(times):
    # the class check wants the index law: a subclass with fixed draws stands for it
    law = type("At", (type(TIMES.build({"name": "index"})),), {"sample": Fixed(times).sample})()
    loss = jax.value_and_grad(lambda q: run({"name": "hybrid"}, hybrid(law), batch(2), q)[0])
    value, grads = jax.jit(loss)(PARAMS)
    assert np.isfinite(value) and all(np.isfinite(g) for g in jax.tree.leaves(grads))


def test_hybrid_is_the_same_for_every_prediction_of_the_mean():
    # an eps network and the x0 network that estimates the same data
    table, data = Table(n=100), batch(2)

    def as_x0(params, x, time, cond, **rest):
        out = learned(params, x, time, cond, **rest)
        t = (time + 1)[:, None, None, None]
        x0 = (x - table.sigma(t) * out[..., :1]) / table.alpha(t)
        return jnp.concatenate([x0, out[..., 1:]], -1)

    eps = run({"name": "hybrid"}, hybrid(process=table), data, compiled=True)[1].metrics
    x0 = run(
        {"name": "hybrid"}, hybrid(process=table, network=as_x0, kind="x0"), data, compiled=True
    )[1].metrics
    for name in ("mse", "vb"):
        assert float(eps[name][0]) == pytest.approx(float(x0[name][0]), rel=1e-3)


def test_hybrid_says_what_it_needs():
    for p, text in [
        (hybrid(network=affine), "learn_sigma"),
        (hybrid(process=VP(), times=Fixed((0.1, 0.2))), "needs process.name"),
        (hybrid(times=Fixed((1.0, 2.0))), "times.name"),
    ]:
        with pytest.raises(UserError, match=text):
            run({"name": "hybrid"}, p, batch(2))


def test_levels_reach_the_likelihood():
    law = type("At", (type(TIMES.build({"name": "index"})),), {"sample": Fixed((1, 1)).sample})()
    got = [
        float(run({"name": "hybrid", "levels": n}, hybrid(law), batch(2))[1].metrics["vb"][0])
        for n in (17, 256)
    ]
    assert got[0] < got[1]  # wider bins are likelier


def test_wrong_fields():
    for fields, text in [
        ({"name": "denoising", "target": "epsilon"}, "target: 'epsilon' is unknown"),
        ({"name": "denoising", "weighting": {"name": "min-snr"}}, "is no weighting"),
        ({"name": "flow", "weighting": "snr"}, "weighting: 'snr' is unknown"),
        ({"name": "hybrid", "levels": 1}, "levels must be at least 2"),
    ]:
        with pytest.raises(UserError, match=text):
            OBJECTIVES.build(fields, "objective")
