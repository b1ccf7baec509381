"""A DiT-S/4 as one would write it in an afternoon: jax.numpy, a Python loop over blocks, Adam.

The peer of `train_step.py`. Tokens are flattened to [b l, d] before every product, without which
XLA's CPU compiler transposes copies for the gradients and the step takes twice as long.
"""

import functools

import jax
import jax.numpy as jnp

WIDTH, HEADS, DEPTH, PATCH, SIDE, CHANNELS = 384, 6, 12, 4, 8, 4


def parameters(key: jax.Array) -> dict:
    """Returns random parameters, a dict of its own for each block."""
    keys = iter(jax.random.split(key, 100))
    d, patch = WIDTH, PATCH**2 * CHANNELS
    shapes = {"mod": 6 * d, "qkv": 3 * d, "out": d, "up": 4 * d}

    def layer(n: int, m: int) -> tuple:
        return 0.02 * jax.random.normal(next(keys), (n, m)), jnp.zeros(m)

    def block() -> dict:
        return {k: layer(d, m) for k, m in shapes.items()} | {"down": layer(4 * d, d)}

    ends = {"in": layer(patch, d), "t1": layer(256, d), "t2": layer(d, d), "mod": layer(d, 2 * d)}
    ends |= {"out": layer(d, 2 * patch), "label": layer(1001, d)[0], "pos": layer(SIDE**2, d)[0]}
    return ends | {"blocks": [block() for _ in range(DEPTH)]}


def dense(x, weight):
    return x @ weight[0] + weight[1]


def norm(x, shift, scale):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * (1 + scale[:, None]) + shift[:, None]


def forward(params, x, t, label):
    """Returns [b, 32, 32, 8] for x [b, 32, 32, 4]."""
    b, d, l = x.shape[0], WIDTH, SIDE**2
    x = x.reshape(b, SIDE, PATCH, SIDE, PATCH, CHANNELS).swapaxes(2, 3).reshape(b * l, -1)
    h = dense(x, params["in"]).reshape(b, l, d) + params["pos"]
    angles = t[:, None] * jnp.exp(-jnp.log(1e4) * jnp.arange(128) / 128)
    c = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    c = dense(jax.nn.silu(dense(c, params["t1"])), params["t2"]) + params["label"][label]
    c = jax.nn.silu(c)
    for p in params["blocks"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(dense(c, p["mod"]), 6, -1)
        z = dense(norm(h, shift1, scale1).reshape(b * l, d), p["qkv"])
        q, k, v = z.reshape(b, l, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        z = jax.nn.softmax(q @ k.swapaxes(-1, -2) * (d // HEADS) ** -0.5) @ v
        z = dense(z.swapaxes(1, 2).reshape(b * l, d), p["out"])
        h = h + gate1[:, None] * z.reshape(b, l, d)
        z = jax.nn.gelu(dense(norm(h, shift2, scale2).reshape(b * l, d), p["up"]))
        h = h + gate2[:, None] * dense(z, p["down"]).reshape(b, l, d)
    shift, scale = jnp.split(dense(c, params["mod"]), 2, -1)
    out = dense(norm(h, shift, scale).reshape(b * l, d), params["out"])
    out = out.reshape(b, SIDE, SIDE, PATCH, PATCH, 2 * CHANNELS).swapaxes(2, 3)
    return out.reshape(b, SIDE * PATCH, SIDE * PATCH, 2 * CHANNELS)


class NaiveStep:
    """Loss, gradients and Adam, without an average of the weights; every call is one update."""

    def __init__(self, batch: dict):
        params = parameters(jax.random.key(0))
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        self.batch, self.state = batch, (params, zeros(params), zeros(params), jnp.zeros(()))

        def loss(params, batch):
            out = forward(params, batch["x"], batch["t"], batch["label"])
            return jnp.mean((out[..., :CHANNELS] - batch["target"]) ** 2)

        def step(state, batch):
            params, m, v, n = state
            value, grads = jax.value_and_grad(loss)(params, batch)
            n = n + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
            a, b = 1 - 0.9**n, 1 - 0.999**n
            move = lambda p, m, v: p - 1e-4 * (m / a) / (jnp.sqrt(v / b) + 1e-8)  # noqa: E731
            return (jax.tree.map(move, params, m, v), m, v, n), value

        self.step = jax.jit(step, donate_argnums=0)
        self()

    def __call__(self) -> jax.Array:
        self.state, value = self.step(self.state, self.batch)
        return value
