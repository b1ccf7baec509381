"""Skip-Tuning's diagnostics, and that scales of one change nothing in a whole sampler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys as keys_lib
from genjax.core.errors import UserError
from genjax.models import MODELS
from genjax.tasks.generate import on_host
from genjax.tasks.skips import denoising_errors, norm_ratios
from tests.tasks import tiny

UNET = {
    "name": "unet",
    "variant": "edm-ddpmpp",
    "channels": 8,
    "channel_mult": (1, 2),
    "blocks": 1,
    "attention": (),
    "augment": 0,
}


def edm(model, **sampler):
    task = tiny.task(
        model=None,
        process={"name": "edm"},
        precond={"name": "edm"},
        objective={"name": "denoising"},
        sampler={
            "solver": {"name": "euler", "space": "lam"},
            "grid": {"name": "karras"},
            "steps": 2,
            **sampler,
        },
        condition_dropout=0.0,
    )
    return dataclasses.replace(task, model=MODELS.build(model))


@pytest.fixture(scope="module")
def case():
    task = edm(UNET)
    params = tiny.parameters(task)["model"]
    x0 = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)), jnp.float32)
    return task, params, x0, keys_lib.per_sample(keys_lib.key(0, "t"), jnp.arange(6))


def test_norm_ratios_scale_with_rho(case):
    task, params, x0, keys = case
    k = task.model.num_skips
    fn = jax.jit(lambda rho: norm_ratios(task, params, x0, jnp.float32(0.5), keys, rho=rho))
    plain = fn(jnp.ones(k))
    assert plain.shape == (k,) and np.all(plain > 0)
    # The bottom skip, the encoder's last, is joined first: nothing before it has changed.
    half = fn(jnp.ones(k).at[k - 1].set(0.5))
    np.testing.assert_allclose(half[0], 0.5 * plain[0], rtol=1e-5)
    np.testing.assert_allclose(fn(jnp.full(k, 2.0))[0], 2 * plain[0], rtol=1e-5)
    dit = tiny.task()
    with pytest.raises(UserError, match="a DiT has no long skips to measure"):
        norm_ratios(dit, {}, x0, jnp.float32(0.5), keys)


def test_errors_are_those_of_the_denoiser(case):
    task, params, x0, keys = case
    t, k = jnp.float32(0.7), task.model.num_skips
    pixel, feature = denoising_errors(
        task, params, x0, t, keys, features=lambda x: 3 * x.reshape(len(x), -1)
    )
    np.testing.assert_allclose(feature, 9 * pixel, rtol=1e-5)
    noise = jax.vmap(lambda key: keys_lib.normal(key[None], (8, 8, 1))[0])(keys)
    d = task.denoiser(params, x0 + t * noise, t).x0
    np.testing.assert_allclose(pixel, np.mean((d - x0) ** 2), rtol=1e-5)
    ones, none = denoising_errors(task, params, x0, t, keys, rho=np.ones(k))
    assert none is None
    np.testing.assert_allclose(ones, pixel, rtol=1e-5)
    tuned, _ = denoising_errors(task, params, x0, t, keys, rho=np.full(k, 0.5))
    assert abs(tuned - pixel) > 1e-3 * pixel


@pytest.mark.parametrize(
    "model",
    [
        UNET,
        {"name": "unet", "variant": "adm-64", "channels": 8, "channel_mult": (1, 2), "blocks": 1,
         "attention": (), "head_channels": 4, "num_classes": 0},
        {"name": "edm2", "width": 8, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,),
         "head_channels": 8, "num_classes": 0},
        {"name": "uvit", "patch": 2, "width": 16, "depth": 3, "heads": 2},
    ],
    ids=["ddpmpp", "adm", "edm2", "uvit"],
)  # fmt: skip
def test_scales_of_one_are_the_network_itself(model):
    plain = edm(model)
    params = tiny.parameters(plain)["model"]
    keys = keys_lib.per_sample(keys_lib.key(0, "sample"), jnp.arange(2))

    def rows(bottom):
        task = edm(model, inputs={"name": "skip_tuning", "bottom": bottom})
        return on_host(task.rows())

    draw = jax.jit(lambda rows: plain.draw(params, {}, rows, keys, None))  # two programs
    x = draw(on_host(plain.rows()))
    scale = np.abs(x).max()
    np.testing.assert_allclose(draw(rows(1.0)), x, rtol=0, atol=2e-6 * scale)
    assert np.abs(draw(rows(0.5)) - x).max() > 1e-3 * scale

    fn = jax.jit(lambda inputs: plain.denoiser(params, x, jnp.float32(0.4), None, inputs=inputs))
    want = fn(None).raw
    once = fn({"skip_scale": jnp.ones(plain.model.num_skips)}).raw
    np.testing.assert_allclose(once, want, rtol=0, atol=1e-6 * np.abs(want).max())
