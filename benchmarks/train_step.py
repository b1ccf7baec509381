"""The train step of DiT-S/4 as a share of the matrix-product rate, and what eats the rest.

    python benchmarks/train_step.py [--batch 16] [--variant S/4] [--dtype float32] [--rounds 10]

The step: flow-matching loss, gradients, AdamW, one EMA, state donated, on latents of 32x32x4. The
rate: a 2048-wide product, measured between the steps, so that both see the same machine. Share =
(3 x forward operations / seconds) / rate; S/4 has a naive peer (`naive_dit.py`: no scan, no EMA).
The ceiling is the share of a step of nothing but the network's products, at their own shapes. Each
part is timed alone at the shapes of the step; its line is its time beyond the ideal time of the
operations counted for it, in percent of the step. Processor time beside wall time tells how much of
the machine the step had: on a shared one compare the former. Time in the kernel is page faults:
memory fresh from the system (docs/dit.md names the environment variable that spares them).
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from naive_dit import NaiveStep

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


def processor() -> tuple[float, float]:
    """Returns the seconds that this process has computed, and those that it spent in the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_stime


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
    """Returns the forward pass and all gradients (of |fn|^2 / 2), compiled and warm."""

    @jax.jit
    def both(*args):
        y, pullback = jax.vjp(fn, *args)
        return y, pullback(y)

    jax.block_until_ready(both(*args))
    return lambda: both(*args)


def _scores(q: Array, k: Array) -> Array:
    return jnp.einsum("blhd,bmhd->bhlm", q, k)


def _average(weights: Array, v: Array) -> Array:
    return jnp.einsum("bhlm,bmhd->blhd", weights, v)


def stacking(blocks: Any, depth: int) -> Callable[[], Any]:
    """Returns the cut of the stacked weights into blocks, and of gradients back into a stack."""

    @jax.jit
    def both(blocks):
        cut = jax.tree.map(lambda a: [a[i] for i in range(depth)], blocks)
        cut = jax.lax.optimization_barrier(cut)
        return jax.tree.map(lambda _, pieces: jnp.stack(pieces), blocks, cut)

    jax.block_until_ready(both(blocks))
    return lambda: both(blocks)


def parts(model: DiT, b: int) -> dict[str, tuple[Callable[[], Any], int, float]]:
    """Returns name -> (timed call, calls a step, operations of one call)."""
    l = (SHAPE[0] // model.patch) * (SHAPE[1] // model.patch)
    d, h, hidden = model.width, model.heads, int(model.width * model.mlp_ratio)
    normal = partial(jax.random.normal, jax.random.key(3), dtype=model.dtype)
    x, wide, c = normal((b, l, d)), normal((b, l, hidden)), normal((b, d))
    qkv, scores = (normal((b, l, h, d // h)),) * 3, normal((b, h, l, l))
    token_products = 6.0 * b * l * l * d

    def linear(n: int, m: int, rows: int):
        return with_gradient(jnp.matmul, normal((rows, n)), normal((n, m))), 6.0 * rows * n * m

    out = {
        "products with weights": [
            (*linear(d, 3 * d, b * l), model.depth),
            (*linear(d, d, b * l), model.depth),
            (*linear(d, hidden, b * l), model.depth),
            (*linear(hidden, d, b * l), model.depth),
        ],
        "products of b rows (modulation)": [(*linear(d, 6 * d, b), model.depth)],
        "products of tokens": [
            (with_gradient(_scores, *qkv[:2]), token_products, model.depth),
            (with_gradient(_average, scores, qkv[2]), token_products, model.depth),
        ],
        "attention: softmax, transposes": [
            (with_gradient(attention, *qkv), 2 * token_products, model.depth)
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
    unrolled = model.clone(unroll=model.depth)
    batch = batch_of(args.batch)
    calibrate, operations = product(args.dtype)
    steps: dict[str, Callable[[], Any]] = {
        "scanned": Step(model, batch),
        "unrolled": Step(unrolled, batch),
    }
    if (args.variant, args.dtype) == ("S/4", "float32"):
        steps["naive"] = NaiveStep(batch)
    pieces = parts(model, args.batch)
    blocks = parameters(model, batch)["blocks"]
    calls = {
        **steps,
        "AdamW and EMA": update_only(model, batch),
        "blocks cut from a stack and stacked": stacking(blocks, model.depth),
        **{name: call for name, (call, _, _) in pieces.items()},
    }
    for call in calls.values():
        seconds(call)
    inf = float("inf")
    best, used = dict.fromkeys(calls, inf), dict.fromkeys(calls, (inf, inf))
    fastest = fastest_used = inf
    for _ in range(args.rounds):
        for name, call in calls.items():
            start = processor()[0]
            fastest = min(fastest, seconds(calibrate))
            fastest_used = min(fastest_used, processor()[0] - start)
            start, kernel = processor()
            best[name] = min(best[name], seconds(call))
            end, kernel_end = processor()
            used[name] = min(used[name], (end - start, kernel_end - kernel))
    rate, work = operations / fastest, 3 * args.batch * model.forward_flops(SHAPE)
    ideal, ideal_used = work / rate, work * fastest_used / operations

    print(f"DiT-{args.variant}, batch {args.batch}, {args.dtype}, remat {args.remat}, ", end="")
    print(f"{jax.devices()[0]}; GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}")
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s; per second of processor time: ", end="")
    print(f"{operations / fastest_used / 1e9:.0f} GFLOP")
    for name in steps:
        total, kernel = used[name]
        print(
            f"{name:9s} {best[name] * 1e3:5.0f} ms, share {ideal / best[name]:.3f}; processor time"
            f" {total * 1e3:.0f} ms ({kernel * 1e3:.0f} in the kernel), "
            f"share {ideal_used / total:.3f}"
        )
    alone = [name for name in pieces if name.startswith("products")]
    ceiling = ideal / sum(pieces[name][1] * best[name] for name in alone)
    print(f"ceiling: share of the network's products alone, at their shapes: {ceiling:.3f}")

    step = best["unrolled"]
    losses = {name: best[name] for name in ("AdamW and EMA", "blocks cut from a stack and stacked")}
    losses |= {
        name: times * (best[name] - operations / rate)
        for name, (_, times, operations) in pieces.items()
    }
    for name in pieces:  # what attention loses beyond its products
        if name.startswith("products of tokens"):
            losses["attention: softmax, transposes"] -= losses[name]
    print("beyond the ideal, in percent of the unrolled step:")
    for name, lost in sorted(losses.items(), key=lambda item: -item[1]):
        print(f"  {100 * lost / step:6.1f}  {name}")
    rest = step - ideal - sum(losses.values())
    print(f"  {100 * rest / step:6.1f}  rest: what fusing the parts saved (-) or cost (+)")
    print(f"  {100 * (best['scanned'] / step - 1):6.1f}  more, scanned: activations into stacks")


if __name__ == "__main__":
    main()
