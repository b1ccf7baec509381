"""The train step of DiT-S/4 as a share of the matrix-product rate, and what eats the rest.

    python benchmarks/train_step.py [--batch 16] [--variant S/4] [--dtype float32] [--rounds 10]

The step: flow-matching loss, gradients, AdamW, one EMA, state donated, on latents of 32x32x4. The
rate: a 2048-wide product, measured between the steps, so that both see the same machine. Share =
(3 x forward operations / seconds) / rate. Each part below is timed alone at the shapes of the step;
its line is its time beyond the ideal time of the operations counted for it, in percent of the step.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.layers.attention import attention
from genjax.layers.mlp import gelu
from genjax.layers.norm import adaptive_layer_norm
from genjax.models.dit import VARIANTS, DiT
from genjax.training import ema
from genjax.training.optimizers import OPTIMIZERS

SHAPE = (32, 32, 4)
SIDE = 2048
ADAMW = OPTIMIZERS.build({"name": "adamw", "weight_decay": 0.0})


def seconds(fn: Callable[[], Any]) -> float:
    """Returns the time of one call, to completion."""
    start = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - start


def product(dtype: str) -> tuple[Callable[[], Array], float]:
    """Returns the calibrating product, compiled and warm, and its operations."""
    a = jax.random.normal(jax.random.key(0), (SIDE, SIDE), dtype)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(a, a))
    return lambda: multiply(a, a), 2.0 * SIDE**3


def batch_of(b: int) -> dict[str, Array]:
    """Returns noised inputs, their targets, times and labels."""
    x, noise = jax.random.normal(jax.random.key(1), (2, b, *SHAPE))
    t = jnp.linspace(0.0, 1.0, b)
    mixed = x + t[:, None, None, None] * (noise - x)
    return {"x": mixed, "target": noise - x, "t": t, "label": jnp.arange(b) % 1000}


def parameters(model: DiT, batch: dict[str, Array]) -> Any:
    """Returns parameters of which none is zero: fresh gates would let XLA off lightly."""
    params = jax.jit(model.init)(jax.random.key(0), batch["x"], batch["t"], batch["label"])
    params = nn.unbox(params["params"])
    return jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(2), p.shape), params)


def loss(model: DiT, params: Any, batch: dict[str, Array]) -> Array:
    """Returns the flow-matching loss on the first channels of the output."""
    out: Any = model.apply({"params": params}, batch["x"], batch["t"], batch["label"])
    return jnp.mean((out[..., : SHAPE[-1]] - batch["target"]) ** 2)


class Step:
    """The whole step on a state that it owns: every call is one update."""

    def __init__(self, model: DiT, batch: dict[str, Array]):
        params = parameters(model, batch)
        b = len(batch["x"])
        optimizer = ADAMW.build(params, b, 1000 * b)
        average = jax.tree.map(jnp.copy, params)
        self.batch, self.state = batch, (params, optimizer.init(params), average)

        def step(state, batch):
            params, opt, average = state
            value, grads = jax.value_and_grad(partial(loss, model))(params, batch)
            updates, opt = optimizer.update(grads, opt, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, opt, ema.update(average, params, 0.9999)), value

        self.step = jax.jit(step, donate_argnums=0)
        self()

    def __call__(self) -> Array:
        self.state, value = self.step(self.state, self.batch)
        return value


def update_only(model: DiT, batch: dict[str, Array]) -> Callable[[], Any]:
    """Returns AdamW and the EMA alone, with the parameters as gradients, state donated."""
    params = parameters(model, batch)
    optimizer = ADAMW.build(params, 1, 1000)
    state = [(params, optimizer.init(params), jax.tree.map(jnp.copy, params))]
    grads = jax.tree.map(jnp.copy, params)

    def update(state, grads):
        params, opt, average = state
        updates, opt = optimizer.update(grads, opt, params)
        params = jax.tree.map(jnp.add, params, updates)
        return params, opt, ema.update(average, params, 0.9999)

    jitted = jax.jit(update, donate_argnums=0)

    def call():
        state[0] = jitted(state[0], grads)
        return state[0]

    return call


def with_gradient(fn: Callable[..., Array], *args: Array) -> Callable[[], Any]:
    """Returns the forward and backward pass of sum(fn(*args)^2), compiled and warm."""
    every = tuple(range(len(args)))
    both = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(fn(*a).astype(jnp.float32) ** 2), every))
    jax.block_until_ready(both(*args))
    return lambda: both(*args)


def parts(model: DiT, b: int) -> dict[str, tuple[Callable[[], Any], int, float]]:
    """Returns name -> (timed call, calls a step, operations of one call)."""
    l = (SHAPE[0] // model.patch) * (SHAPE[1] // model.patch)
    d, h, hidden = model.width, model.heads, int(model.width * model.mlp_ratio)
    normal = partial(jax.random.normal, jax.random.key(3), dtype=model.dtype)
    x, wide, c = normal((b, l, d)), normal((b, l, hidden)), normal((b, d))
    qkv = (normal((b, l, h, d // h)),) * 3
    matmul = with_gradient

    def linear(n: int, m: int, rows: int):
        return matmul(jnp.matmul, normal((rows, n)), normal((n, m))), 6.0 * rows * n * m

    out = {
        "products with weights at the network's shapes": [
            (*linear(d, 3 * d, b * l), model.depth),
            (*linear(d, d, b * l), model.depth),
            (*linear(d, hidden, b * l), model.depth),
            (*linear(hidden, d, b * l), model.depth),
        ],
        "modulation: products of b rows": [(*linear(d, 6 * d, b), model.depth)],
        "attention: scores, softmax, average": [
            (with_gradient(attention, *qkv), 12.0 * b * l * l * d, model.depth)
        ],
        "adaptive layer norms": [
            (with_gradient(adaptive_layer_norm, x, c, c), 0.0, 2 * model.depth)
        ],
        "GELU": [(with_gradient(gelu, wide), 0.0, model.depth)],
        "gates and residuals": [
            (with_gradient(lambda x, g, y: x + g[:, None] * y, x, c, x), 0.0, 2 * model.depth)
        ],
    }
    return {
        f"{name}{f' [{i}]' if len(calls) > 1 else ''}": (call, times, operations)
        for name, calls in out.items()
        for i, (call, operations, times) in enumerate(calls)
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--variant", default="S/4", choices=VARIANTS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="none")
    parser.add_argument("--rounds", type=int, default=10, help="the best of so many counts")
    args = parser.parse_args()

    model = DiT(**VARIANTS[args.variant], dtype=args.dtype, remat=args.remat)
    batch = batch_of(args.batch)
    calibrate, operations = product(args.dtype)
    unrolled = model.clone(unroll=model.depth)
    params = parameters(model, batch)
    grads = {
        name: jax.jit(jax.grad(partial(loss, m)))
        for name, m in (("scan", model), ("unrolled", unrolled))
    }
    calls: dict[str, Callable[[], Any]] = {
        "step": Step(model, batch),
        "forward and backward": lambda: grads["scan"](params, batch),
        "forward and backward, unrolled": lambda: grads["unrolled"](params, batch),
        "AdamW and EMA": update_only(model, batch),
    }
    pieces = parts(model, args.batch)
    calls |= {name: call for name, (call, _, _) in pieces.items()}
    for call in calls.values():
        seconds(call)
    best = dict.fromkeys(calls, float("inf"))
    fastest = float("inf")
    for _ in range(args.rounds):
        for name, call in calls.items():
            fastest = min(fastest, seconds(calibrate))
            best[name] = min(best[name], seconds(call))
    rate = operations / fastest

    step = best["step"]
    ideal = 3 * args.batch * model.forward_flops(SHAPE) / rate
    device = jax.devices()[0]
    print(f"DiT-{args.variant}, batch {args.batch}, {args.dtype}, remat {args.remat}, on {device}")
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s; step {step * 1e3:.0f} ms")
    print(f"share of the step that is products at that rate: {ideal / step:.3f}")
    losses = {
        "AdamW and EMA": best["AdamW and EMA"],
        "scan over blocks, against unrolled": best["forward and backward"]
        - best["forward and backward, unrolled"],
    }
    for name, (_, times, operations) in pieces.items():
        losses[name] = times * (best[name] - operations / rate)
    print("time beyond the ideal, in percent of the step:")
    for name, lost in sorted(losses.items(), key=lambda item: -item[1]):
        print(f"  {100 * lost / step:6.1f}  {name}")
    rest = step - ideal - sum(losses.values())
    print(f"  {100 * rest / step:6.1f}  rest: what fusing the parts saved (-) or cost (+)")


if __name__ == "__main__":
    main()
