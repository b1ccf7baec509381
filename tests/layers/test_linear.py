"""The linear map, its initial bounds and the activation inside an MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.layers.linear import Linear, zeros
from genjax.layers.mlp import gelu


def test_kernels_of_several_axes_are_one_matrix():
    x = jax.random.normal(jax.random.key(0), (5, 2, 3, 4))
    module = Linear((2, 6), ("heads", "kv", None, "mlp"), inputs=2)
    variables = module.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert kernel.names == ("heads", "kv", None, "mlp") and kernel.value.shape == (3, 4, 2, 6)
    assert variables["params"]["bias"].names == (None, "mlp")
    want = x.reshape(5, 2, 12) @ kernel.value.reshape(12, 12)
    found = module.apply(nn.unbox(variables), x)
    np.testing.assert_allclose(found, want.reshape(5, 2, 2, 6), atol=1e-5)
    # Xavier of the 12 x 12 matrix: the bound is reached and not passed.
    bound = (6 / 24) ** 0.5
    assert 0.95 * bound < float(jnp.abs(kernel.value).max()) <= bound


def test_dtype_is_that_of_the_product_and_parameters_stay_float32():
    x = jnp.ones((2, 3))
    module = Linear((4,), ("embed", "mlp"), kernel_init=zeros, use_bias=False, dtype="bfloat16")
    variables = nn.unbox(module.init(jax.random.key(0), x))
    assert list(variables["params"]) == ["kernel"]
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert module.apply(variables, x).dtype == jnp.bfloat16


def test_gelu_is_the_tanh_form():
    x = jnp.linspace(-4, 4, 33)
    want = 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(gelu(x), want, atol=1e-6)


def test_backward_pass_keeps_what_came_in_and_nothing_else():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    module = Linear((4,), ("embed", "mlp"), activation=gelu, dtype="bfloat16")
    variables = nn.unbox(module.init(jax.random.key(1), x))
    out, back = jax.vjp(module.apply, variables, x)
    kept = {(r.shape, str(r.dtype)) for r in jax.tree.leaves(back) if r.size > 1}
    assert kept <= {((2, 5, 6), "float32"), ((6, 4), "float32"), ((4,), "float32")}

    def plain(v, x):
        p = jax.tree.map(lambda a: a.astype(jnp.bfloat16), v["params"])
        return gelu(x).astype(jnp.bfloat16) @ p["kernel"] + p["bias"]

    want, want_back = jax.vjp(plain, variables, x)
    np.testing.assert_array_equal(out, want)
    for a, b in zip(jax.tree.leaves(back(out)), jax.tree.leaves(want_back(out))):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)
