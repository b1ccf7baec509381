"""The train step of Score SDE's U-Nets here against diffusers' UNet2DModel, two threads.

    python benchmarks/unet_train_step_vs_diffusers.py [--variant ddpmpp] [--batch 16] [--rounds 3]

Needs the `parity` extra. 32x32x3, float32, MSE, gradients, AdamW and an EMA; the best of
alternating rounds counts. diffusers' network has the same width, levels, blocks a level and
attention at 16 x 16, though neither the FIR filters of NCSN++ nor its input pyramid; each side is
rated by its own operations (diffusers' counted by PyTorch), beside the rates that each library
reaches on a 3x3 convolution of 32x32x128 alone.
"""

import argparse
import os
import resource
from collections.abc import Callable
from typing import Any

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import diffusers  # noqa: E402
import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from train_step import ADAMW, seconds  # noqa: E402

from genjax.layers.conv import convolve  # noqa: E402
from genjax.models.unet import VARIANTS, UNet  # noqa: E402
from genjax.training import ema  # noqa: E402

SHAPE = (32, 32, 3)


class Step:
    """Our step on a state that it owns."""

    def __init__(self, model: UNet, x, target, t):
        params = nn.unbox(jax.jit(model.init)(jax.random.key(0), x, t)["params"])
        params = jax.tree.map(
            lambda p: p + 0.02 * jax.random.normal(jax.random.key(2), p.shape), params
        )
        optimizer = ADAMW.build(params, len(x), 1000 * len(x))
        self.state = params, optimizer.init(params), jax.tree.map(jnp.copy, params)
        self.batch = x, target, t

        def loss(params, x, target, t):
            out: Any = model.apply({"params": params}, x, t)
            return jnp.mean((out - target) ** 2)

        def step(state, batch):
            params, opt, average = state
            value, grads = jax.value_and_grad(loss)(params, *batch)
            updates, opt = optimizer.update(grads, opt, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, opt, ema.update(average, params, 0.9999)), value

        self.step = jax.jit(step, donate_argnums=0)
        self()

    def __call__(self):
        self.state, value = self.step(self.state, self.batch)
        return value


class TorchStep:
    """diffusers' step; `work` is the operations of forward and backward."""

    def __init__(self, size: UNet, x, target, t):
        kinds = [32 // 2**i in size.attention for i in range(len(size.channel_mult))]
        down = tuple("AttnDownBlock2D" if at else "DownBlock2D" for at in kinds)
        up = tuple("AttnUpBlock2D" if at else "UpBlock2D" for at in reversed(kinds))
        self.model = diffusers.UNet2DModel(
            sample_size=32,
            in_channels=SHAPE[-1],
            out_channels=SHAPE[-1],
            block_out_channels=tuple(size.channels * m for m in size.channel_mult),
            layers_per_block=size.blocks,
            down_block_types=down,
            up_block_types=up,
            attention_head_dim=None,
            dropout=0.0,
        )
        self.x, self.target = (torch.tensor(a.__array__()).permute(0, 3, 1, 2) for a in (x, target))
        self.x, self.target = self.x.contiguous(), self.target.contiguous()
        self.t = torch.tensor(t.__array__())
        self.params = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-4, weight_decay=0.0, foreach=True)
        counter = FlopCounterMode(display=False)
        with counter:
            self()
        self.work = counter.get_total_flops()

    def __call__(self) -> float:
        loss = torch.mean((self.model(self.x, self.t).sample - self.target) ** 2)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.params, 1e-4)
        return float(loss.detach())


def convolutions(b: int) -> tuple[dict[str, Callable], float]:
    """Returns JAX's and PyTorch's 3x3 convolution of 32x32x128 alone, and its operations."""
    x = jax.random.normal(jax.random.key(0), (b, 32, 32, 128))
    weight = jax.random.normal(jax.random.key(1), (3, 3, 128, 128))
    ours, theirs = jax.jit(convolve), torch.nn.functional.conv2d
    y = torch.tensor(x.__array__()).permute(0, 3, 1, 2).contiguous()
    kernel = torch.tensor(weight.__array__()).permute(3, 2, 0, 1).contiguous()
    calls = {"jax": lambda: ours(x, weight), "torch": lambda: theirs(y, kernel, padding=1).sum()}
    return calls, 2.0 * 9 * x.size * 128


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--variant", default="ddpmpp", choices=VARIANTS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)

    x, target = jax.random.normal(jax.random.key(0), (2, args.batch, *SHAPE))
    t = jnp.linspace(1.0, 100.0, args.batch)
    model = UNet(**VARIANTS[args.variant])
    ours, theirs = Step(model, x, target, t), TorchStep(model, x, target, t)
    alone, operations = convolutions(args.batch)
    calls: dict[str, Callable] = {"genjax": ours, "diffusers": theirs, **alone}
    for call in calls.values():
        seconds(call)
    best = dict.fromkeys(calls, (float("inf"), float("inf")))
    for _ in range(args.rounds):
        for name, call in calls.items():
            start = resource.getrusage(resource.RUSAGE_SELF)
            wall = seconds(call)
            end = resource.getrusage(resource.RUSAGE_SELF)
            used = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
            best[name] = min(best[name][0], wall), min(best[name][1], used)
    print(f"{args.variant}, batch {args.batch}, float32, {THREADS} threads, {os.cpu_count()} cores")
    work = {"genjax": 3 * args.batch * model.forward_flops(SHAPE), "diffusers": theirs.work}
    for name, library in (("genjax", "jax"), ("diffusers", "torch")):
        wall, used = best[name]
        shares = [w / operations * a / b for w, a, b in ((work[name], *p) for p in
                  zip(best[library], best[name]))]  # fmt: skip
        print(
            f"{name:10s} {wall * 1e3:7.0f} ms a step ({used * 1e3:.0f} of processor time), "
            f"{work[name] / 1e9:.0f} GFLOP, {shares[0]:.2f} ({shares[1]:.2f}) of its convolution's "
            f"{operations / best[library][0] / 1e9:.0f} GFLOP/s"
        )
    ratios = [b / a for a, b in zip(best["genjax"], best["diffusers"])]
    print(f"speed of genjax / diffusers: {ratios[0]:.2f} ({ratios[1]:.2f} by processor time)")


if __name__ == "__main__":
    main()
