import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.registry import fields_of
from genjax.training.schedules import SCHEDULES

TOTAL = 1000.0
OTHER = {"warmup": 100.0, "cooldown": 200.0, "final": 0.3, "timescale": 50.0, "reference": 70.0}
OTHER |= {"power": 1.0, "hold": 500.0}
FIELDS = [(name, key) for name, cls in SCHEDULES.entries.items() for key in fields_of(cls)]


def build(name, **fields):
    return SCHEDULES.build({"name": name, **fields})


@pytest.mark.parametrize(
    ("choice", "at", "want"),
    [
        ({"name": "constant"}, [0, 500, 1000], [1, 1, 1]),
        ({"name": "constant", "warmup": 10}, [0, 5, 10, 500], [0, 0.5, 1, 1]),
        ({"name": "constant", "cooldown": 100}, [900, 950, 1000], [1, 0.5, 0]),
        ({"name": "cosine"}, [0, 500, 1000], [1, 0.5, 0]),
        # ViT-VQGAN: up over 50, then half a cosine to one half over the rest
        ({"name": "cosine", "warmup": 50, "final": 0.5}, [25, 50, 525, 1000], [0.5, 1, 0.75, 0.5]),
        ({"name": "linear", "final": 0.2}, [0, 500, 1000, 1500], [1, 0.6, 0.2, 0.2]),
        ({"name": "rsqrt", "timescale": 100, "warmup": 50}, [50, 350], [1, 0.5]),
        # EDM2: 1 / sqrt(max(t / t_ref, 1)) times the warm-up
        ({"name": "inverse_time", "reference": 100}, [50, 100, 400], [1, 1, 0.5]),
        ({"name": "inverse_time", "reference": 100, "power": 1, "warmup": 800}, [400], [0.125]),
        # Parti: up, flat, then down to 1/40 with the last image
        (
            {"name": "exponential", "warmup": 50, "hold": 200, "final": 0.01},
            [25, 50, 200, 600, 1000],
            [0.5, 1, 1, 0.1, 0.01],
        ),
    ],
)
def test_values_on_host_and_in_the_graph(choice, at, want):
    schedule = SCHEDULES.build(choice)
    host = schedule(np.array(at, np.float64), TOTAL)
    graph = jax.jit(lambda n: schedule(n, TOTAL))(jnp.array(at, jnp.float32))
    np.testing.assert_allclose(host, want, atol=1e-12)
    np.testing.assert_allclose(graph, want, atol=1e-6)
    assert schedule(float(at[-1]), TOTAL) == pytest.approx(want[-1], abs=1e-12)


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_every_field_has_an_effect(name, key):
    n = np.linspace(0, TOTAL, 41)
    base = {"timescale": 300.0} if name == "rsqrt" else {}
    base = {"reference": 300.0} if name == "inverse_time" else base
    assert not np.allclose(
        build(name, **base)(n, TOTAL), build(name, **base | {key: OTHER[key]})(n, TOTAL)
    )


def test_a_run_shorter_than_its_warmup_stays_finite():
    for name in SCHEDULES.entries:
        value = build(name, warmup=1e7)(np.array([0.0, 5.0]), 10.0)
        assert np.all(np.isfinite(value)) and value[1] == pytest.approx(5e-7)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "constant", "warmup": -1},
        {"name": "cosine", "final": 2.0},
        {"name": "rsqrt", "timescale": 0},
        {"name": "inverse_time", "reference": 0},
    ],
)
def test_values_out_of_range_name_the_key(fields):
    with pytest.raises(UserError, match="config"):
        SCHEDULES.build(fields)


def test_wave_is_a_cosine():
    assert build("cosine")(250.0, TOTAL) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
