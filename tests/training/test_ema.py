import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.registry import fields_of
from genjax.training.ema import EMAS, update
from genjax.training.posthoc import gamma_of

FIELDS = [(name, key) for name, cls in EMAS.entries.items() for key in fields_of(cls)]
OTHER = {"decay": 0.05, "images": 2.0, "ramp": None, "sigma_rel": 0.05}


def law(name, **fields):
    return EMAS.build({"name": name, **fields})


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_every_field_has_an_effect(name, key):
    assert float(law(name)(100, 110)) != float(law(name, **{key: OTHER[key]})(100, 110))


def test_decays_in_closed_form_and_traced():
    cases = [
        (law("constant", decay=0.99), 0, 512, 0.99),
        (law("warmup", decay=0.9), 0, 8, 0.1),
        (law("warmup", decay=0.9), 40, 48, 6 / 15),
        (law("warmup", decay=0.9), 8000, 8008, 0.9),
        # EDM on CIFAR-10: the sheet's 0.99929 in steady state, and a copy at first
        (law("half_life"), 200_000_000, 200_000_512, 0.5 ** (512 / 500_000)),
        (law("half_life"), 0, 512, 0.0),
        (law("half_life"), 5120, 5632, 0.5 ** (512 / 256)),
        (law("half_life", ramp=None), 0, 500_000, 0.5),
        (law("power"), 0, 2048, 0.0),
        (law("power"), 300, 400, 0.75 ** (6.93720394 + 1)),
    ]
    for each, before, after, want in cases:
        got = jax.jit(each)(jnp.uint32(before), jnp.uint32(after))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert float(law("half_life")(10**8, 10**8 + 512)) == pytest.approx(0.99929, abs=5e-6)


def test_power_decay_does_not_round_away_late_in_training():
    b = law("power", sigma_rel=0.05)(jnp.uint32(2_000_000_000), jnp.uint32(2_000_002_048))
    exact = -np.expm1((gamma_of(0.05) + 1) * np.log1p(-2048 / 2_000_002_048))
    np.testing.assert_allclose(1 - float(b), exact, rtol=4e-3)  # half a unit of 1 - b in float32


def test_power_average_of_a_ramp():
    # EDM2: the average of theta(t) = t is (gamma + 1) / (gamma + 2) t after many steps
    each = law("power", sigma_rel=0.10)
    step = jax.jit(lambda e, i: update(e, i + 1.0, each(i, i + 1.0)))
    ema = jnp.float32(0)
    for i in range(2000):
        ema = step(ema, jnp.float32(i))
    gamma = gamma_of(0.10)
    assert float(ema) == pytest.approx((gamma + 1) / (gamma + 2) * 2000, rel=5e-4)


def test_update_is_float32_and_moves_in_small_steps():
    params = {"w": jnp.full(3, 2.0, jnp.bfloat16)}
    ema = {"w": jnp.ones(3, jnp.float32)}
    one = jax.jit(update)(ema, params, 0.9999)
    assert one["w"].dtype == jnp.float32
    np.testing.assert_allclose(one["w"], 1.0001, rtol=1e-7)
    copied = update(ema, {"w": jnp.array([0.1, 0.2, 0.3])}, 0.0)
    np.testing.assert_array_equal(copied["w"], np.float32([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("constant", {"decay": 1.0}),
        ("warmup", {"decay": -0.1}),
        ("half_life", {"images": 0}),
        ("half_life", {"ramp": 0.0}),
        ("power", {"sigma_rel": 0.3}),
    ],
)
def test_values_out_of_range_name_the_key(name, fields):
    with pytest.raises(UserError, match=r"config: .*"):
        law(name, **fields)
