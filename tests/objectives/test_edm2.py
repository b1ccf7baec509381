"""EDM2's learned uncertainty: the formula, its optimum, its metrics; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.types import Progress, View
from genjax.objectives import OBJECTIVES, Parts
from genjax.process import COUPLINGS, PRECONDS, PROCESSES, TIMES, Denoiser

VIEW, PROGRESS, KEY = View({}, {}, {}, {}), Progress(0, 0, 1), jax.random.key(0)


def network(params, x, time, cond, *, train=False, key=None, inputs=None, features=()):
    """F = a, whatever x is, and u = b c_noise + c."""
    out = jnp.full_like(x, params["a"])
    u = params["b"] * time + params["c"]
    return (out, {"logvar": u}) if features else out


def parts(std=1.0, apply=network):
    return Parts(
        denoiser=Denoiser(PROCESSES.build({"name": "edm"}), PRECONDS.build({"name": "edm"}), apply),
        times=TIMES.build({"name": "lognormal", "mean": -0.4, "std": std}),
        coupling=COUPLINGS.build({"name": "independent"}),
        prepare=lambda stream, view, key: (stream["image"], None),
        null=lambda cond: cond,
        drop=0.0,
    )


def stream(b=16, shape=(4, 4, 3)):
    x = 0.5 * np.random.default_rng(0).standard_normal((b, *shape), dtype=np.float32)
    return {"main": {"image": jnp.asarray(x)}}


def params(a=0.0, b=0.0, c=0.0):
    return {"model": {"a": jnp.float32(a), "b": jnp.float32(b), "c": jnp.float32(c)}}


def value(objective, trained, made=None, batch=None, **options):
    return objective(made or parts(), trained, VIEW, batch or stream(), KEY, PROGRESS, **options)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_is_the_formula_per_element(reduction):
    objective = OBJECTIVES.build({"name": "edm2", "reduction": reduction})
    trained, made, batch = params(0.3, 2.0, -0.5), parts(), stream()
    loss, aux = value(objective, trained, made, batch)
    draw = made.draw(VIEW, batch["main"], KEY, PROGRESS, True)
    sigma = np.asarray(draw.t, np.float64)
    u = 2.0 * np.log(sigma) / 4 - 0.5
    wide = sigma[:, None, None, None]
    x0, x = np.asarray(draw.x0, np.float64), np.asarray(draw.x, np.float64)
    d = 0.25 / (wide**2 + 0.25) * x + wide * 0.5 / np.sqrt(wide**2 + 0.25) * 0.3
    lam = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    each = (lam / np.exp(u))[:, None, None, None] * (d - x0) ** 2 + u[:, None, None, None]
    want = np.mean(each.sum((1, 2, 3)) if reduction == "sum" else each.mean((1, 2, 3)))
    assert float(loss) == pytest.approx(want, rel=1e-5)
    total, count = aux.metrics["weighted"]
    assert float(total / count) == pytest.approx(
        np.mean(lam * np.mean((d - x0) ** 2, (1, 2, 3))), rel=1e-5
    )
    assert float(aux.metrics["logvar"][0] / 16) == pytest.approx(u.mean(), rel=1e-5)


def test_a_zero_network_costs_one_an_element_at_any_level():
    """F = 0 and data of variance sigma_data^2: loss 1 per element, so the optimum is u = 0."""
    objective = OBJECTIVES.build({"name": "edm2", "reduction": "mean", "bins": 4})
    loss, aux = value(objective, params(), batch=stream(512, (8, 8, 1)))
    assert float(loss) == pytest.approx(1, abs=0.02)
    for i in range(4):
        total, count = aux.metrics[f"loss/bin_{i}"]
        assert count == 0 or float(total / count) == pytest.approx(1, abs=0.05 + 2 / float(count))


def test_the_optimum_of_u_is_the_logarithm_of_the_weighted_error():
    objective = OBJECTIVES.build({"name": "edm2"})
    made, batch = parts(), stream(64)

    def slope(a, c):
        grads = jax.grad(lambda p: value(objective, p, made, batch)[0])(params(a, 0.0, c))
        return float(grads["model"]["c"]) / 48

    for a in (0.0, 0.7):
        _, aux = value(objective, params(a), made, batch)
        best = np.log(float(aux.metrics["weighted"][0]) / 64)
        assert slope(a, best) == pytest.approx(0, abs=1e-4)
        assert slope(a, best - 1) < -0.5 and slope(a, best + 1) > 0.5


def test_with_constant_u_the_gradient_is_that_of_edm():
    edm = OBJECTIVES.build({"name": "denoising", "weighting": {"name": "edm"}, "reduction": "sum"})
    ours = OBJECTIVES.build({"name": "edm2"})
    grads = [
        float(jax.grad(lambda p, o=o: value(o, p)[0])(params(0.4))["model"]["a"])
        for o in (edm, ours)
    ]
    assert grads[0] == pytest.approx(grads[1], rel=1e-5) and abs(grads[0]) > 1


def test_networks_without_a_log_variance_are_refused():
    def plain(params, x, time, cond, *, train=False, key=None, inputs=None, features=()):
        raise ValueError(f"features: {features[0]!r} is none of block_0 ... block_3")

    with pytest.raises(UserError, match=r"objective\.name: edm2 needs a network with"):
        value(OBJECTIVES.build({"name": "edm2"}), params(), parts(apply=plain))


@pytest.mark.parametrize("fields", [{"reduction": "half_sum"}, {"bins": -1}])
def test_fields_out_of_range_are_named(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        OBJECTIVES.build({"name": "edm2", **fields})


def test_every_field_has_an_effect():
    base = OBJECTIVES.build({"name": "edm2"})
    snr = OBJECTIVES.build({"name": "edm2", "weighting": {"name": "snr"}})
    want, _ = value(base, params(0.3))
    assert float(value(snr, params(0.3))[0]) != float(want)
    mean = dataclasses.replace(base, reduction="mean")
    assert float(value(mean, params(0.3))[0]) == pytest.approx(float(want) / 48, rel=1e-6)
    assert "loss/bin_2" in value(dataclasses.replace(base, bins=3), params(0.3))[1].metrics
