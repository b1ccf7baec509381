"""Gradients of the 3x3 convolutions of DDPM++ at CIFAR size on this machine, and alternatives.

    JAX_PLATFORMS=cpu python benchmarks/conv_weight_gradient.py [--batch 16] [--rounds 10]

Float32, best of alternating rounds, in GFLOP/s; in brackets GFLOP per second of processor time,
which a busy machine changes less. `genjax` is what `genjax.layers.conv.convolve` does; the others:
patches (im2col) and one product, nine products of shifted images, and XLA's own, which is a
convolution with batch and channels in each other's place.
"""

import argparse
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from train_step import processor, product, seconds

from genjax.core.arrays import Array
from genjax.layers.conv import SAME, convolve

SHAPES = ((32, 128), (16, 256), (8, 256), (4, 256))


def plain(x: Array, weight: Array) -> Array:
    """Returns the convolution with XLA's own gradients."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, weight, (1, 1), SAME, dimension_numbers=layout)


def shifted(x: Array) -> list[Array]:
    """Returns the nine views of x under the nine taps, each [b h w, c]."""
    _, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), *SAME, (0, 0)))
    return [x[:, i : i + h, j : j + w].reshape(-1, c) for i in range(3) for j in range(3)]


def of_weight(convolution: Callable) -> Callable:
    """Returns (x, weight, g) -> gradient of the weight."""
    return lambda x, weight, g: jax.vjp(lambda w: convolution(x, w), weight)[1](g)[0]


def patches(x: Array, weight: Array, g: Array) -> Array:
    columns = jnp.concatenate(shifted(x), axis=-1)
    return (columns.T @ g.reshape(-1, g.shape[-1])).reshape(weight.shape)


def nine(x: Array, weight: Array, g: Array) -> Array:
    g = g.reshape(-1, g.shape[-1])
    return jnp.stack([view.T @ g for view in shifted(x)]).reshape(weight.shape)


CALLS: dict[str, Callable] = {
    "forward": lambda x, weight, g: plain(x, weight),
    "input gradient": lambda x, weight, g: jax.vjp(lambda x: plain(x, weight), x)[1](g)[0],
    "weight gradient, XLA": of_weight(plain),
    "weight gradient, patches": patches,
    "weight gradient, nine products": nine,
    "weight gradient, genjax": of_weight(convolve),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10, help="the best of so many counts")
    args = parser.parse_args()
    multiply, operations = product("float32")
    for side, channels in SHAPES:
        x, g = jax.random.normal(jax.random.key(0), (2, args.batch, side, side, channels))
        weight = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
        work = dict.fromkeys(CALLS, 2.0 * 9 * x.size * channels) | {"product": operations}
        calls: dict[str, Callable] = {
            name: partial(jax.jit(fn), x, weight, g) for name, fn in CALLS.items()
        }
        calls["product"] = multiply
        best = dict.fromkeys(calls, (float("inf"), float("inf")))
        for call in calls.values():
            seconds(call)
        for _ in range(args.rounds):
            for name, call in calls.items():
                start = processor()[0]
                wall = seconds(call)
                used = processor()[0] - start
                best[name] = (min(best[name][0], wall), min(best[name][1], used))
        print(f"{side} x {side} x {channels}, batch {args.batch}")
        for name, (wall, used) in best.items():
            print(f"  {name:32s} {work[name] / wall / 1e9:5.0f} ({work[name] / used / 1e9:.0f})")


if __name__ == "__main__":
    main()
