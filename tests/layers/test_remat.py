"""Rematerialisation policies keep what their names say."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from genjax.layers.remat import NAMES, check, remat


class Body(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = jnp.sin(nn.Dense(7, use_bias=False)(x))
        h = h @ jnp.swapaxes(h, -1, -2)  # a product of activations, batched
        return jnp.sum(jnp.sin(h))


def kept(name):
    x = jnp.ones((2, 3, 5))
    module = remat(Body, name)()
    variables = module.init(jax.random.key(0), x)
    shapes = {r.shape for r in jax.tree.leaves(jax.vjp(module.apply, variables, x)[1])}
    return {"weights": (2, 3, 7) in shapes, "scores": (2, 3, 3) in shapes}


@pytest.mark.parametrize(
    ("name", "weights", "scores"),
    [("full", False, False), ("dots", True, True), ("weights", True, False)],
)
def test_policies(name, weights, scores):
    assert kept(name) == {"weights": weights, "scores": scores}


def test_none_is_the_block_itself_and_unknown_names_are_refused():
    assert remat(Body, "none") is Body
    assert NAMES == ("none", "full", "dots", "weights")
    with pytest.raises(ValueError, match="'half' is no policy; choose one of none, full"):
        check("half")
