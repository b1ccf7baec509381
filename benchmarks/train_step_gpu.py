"""MFU of a DiT's train step on one accelerator, and the same network under torch.compile.

    python benchmarks/train_step_gpu.py [--size XL/2] [--batch 64] [--remat none] [--peer]
    JAX_PLATFORMS=cpu python benchmarks/train_step_gpu.py --size S/8 --dtype float32 --smoke

The step: flow-matching loss, gradients, AdamW, one EMA, latents of 32x32x4, `--dtype` products over
float32 parameters. MFU = 3 x forward operations / seconds / the device's dense bfloat16 peak (not
known for CPUs: then FLOP/s alone). `--peer` (PyTorch and diffusers): `DiTTransformer2DModel` with
autocast to the same dtype, torch.compile, AdamW over lists and the same EMA, measured before ours:
PyTorch gives its memory back. `--smoke`: two steps of batch 2, to see that it runs.
"""

import argparse
import gc
import os
import statistics
from collections.abc import Callable

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch comes first

import jax
from train_step import SHAPE, Step, batch_of, seconds

from genjax.layers.remat import NAMES
from genjax.models.dit import VARIANTS, DiT
from genjax.parallel import peak_flops


def median(call: Callable, steps: int) -> float:
    """Returns the median seconds of a step, after two that do not count."""
    return statistics.median([seconds(call) for _ in range(steps + 2)][2:])


def torch_seconds(size: str, batch: dict, dtype: str, steps: int) -> float:
    """Returns the seconds of a step of diffusers' network under torch.compile."""
    import torch
    from train_step_vs_diffusers import TorchStep

    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = TorchStep(batch, size=size, device=device, dtype=getattr(torch, dtype), compiled=True)
    took = median(step, steps)  # reading the loss waits for the device
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return took


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="XL/2", choices=VARIANTS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="none", choices=NAMES)
    parser.add_argument("--unroll", type=int, default=1, help="blocks an iteration of the scan")
    parser.add_argument("--attention", default="auto", help="attention kernel")
    parser.add_argument("--steps", type=int, default=20, help="the median of so many counts")
    parser.add_argument("--peer", action="store_true", help="time diffusers' network as well")
    parser.add_argument("--smoke", action="store_true", help="two steps of batch 2")
    args = parser.parse_args()
    b, steps = (2, 2) if args.smoke else (args.batch, args.steps)

    model = DiT(
        **VARIANTS[args.size],
        dtype=args.dtype,
        remat=args.remat,
        unroll=args.unroll,
        attention=args.attention,
    )
    batch, device = batch_of(b), jax.devices()[0]
    theirs = torch_seconds(args.size, batch, args.dtype, steps) if args.peer else None
    ours = median(Step(model, batch), steps)
    work = 3 * b * model.forward_flops(SHAPE)
    peak = peak_flops(device.device_kind)

    def tell(name: str, took: float) -> None:
        mfu = f", MFU {work / took / peak:.3f}" if peak else ", no peak known: no MFU"
        print(f"{name:10s} {took * 1e3:8.1f} ms a step, {work / took / 1e12:.3g} TFLOP/s{mfu}")

    print(f"DiT-{args.size}, batch {b}, {args.dtype}, remat {args.remat}, {device.device_kind}")
    tell("genjax", ours)
    if theirs is not None:
        tell("diffusers", theirs)
        print(f"speed of genjax / diffusers: {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
