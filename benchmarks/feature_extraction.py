"""Inception features on this machine: genjax against PyTorch's same network, and what metrics cost.

    python benchmarks/feature_extraction.py [--batch 8] [--rounds 5] [--torch no] [--metrics N]

Both networks get the same random weights and the same uint8 images, resized to 299 by both; rounds
alternate, the ratio is of their medians, and the features must agree. "statistics" is what adding
them up costs beside computing them. `--metrics N` prints the table of docs/evaluation.md: seconds
of every metric on N features of either side, 2048 wide, without the network. Needs torch unless
`--torch no`.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from genjax import weights
from genjax.evaluation import METRICS
from genjax.evaluation.extractors import spread_over_devices
from genjax.evaluation.frechet import frechet
from genjax.evaluation.images import of_arrays
from genjax.evaluation.metrics import Evidence, given
from genjax.evaluation.networks import inception_network
from genjax.evaluation.statistics import Accumulator, of_features
from genjax.models.inception import FIDInception

# name -> (channels in, out, kernel, stride, padding), as in the published file.
Plan = dict[str, tuple[int, int, tuple[int, int], int, tuple[int, int]]]
_STEM = {
    "Conv2d_1a_3x3": (3, 32, (3, 3), 2, (0, 0)),
    "Conv2d_2a_3x3": (32, 32, (3, 3), 1, (0, 0)),
    "Conv2d_2b_3x3": (32, 64, (3, 3), 1, (1, 1)),
    "Conv2d_3b_1x1": (64, 80, (1, 1), 1, (0, 0)),
    "Conv2d_4a_3x3": (80, 192, (3, 3), 1, (0, 0)),
}


def plan() -> Plan:
    """Returns every convolution of FID's Inception."""
    out: Plan = dict(_STEM)

    def add(block: str, name: str, *shape: Any) -> None:
        i, o, kernel, stride = shape
        padding = (0, 0) if stride == 2 else (kernel[0] // 2, kernel[1] // 2)
        out[f"{block}.{name}"] = (i, o, kernel, stride, padding)

    one, three, five, wide, tall = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
    for block, i, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        for name, *shape in (
            ("branch1x1", i, 64, one, 1), ("branch5x5_1", i, 48, one, 1),
            ("branch5x5_2", 48, 64, five, 1), ("branch3x3dbl_1", i, 64, one, 1),
            ("branch3x3dbl_2", 64, 96, three, 1), ("branch3x3dbl_3", 96, 96, three, 1),
            ("branch_pool", i, pool, one, 1),
        ):  # fmt: skip
            add(f"Mixed_{block}", name, *shape)
    for name, *shape in (
        ("branch3x3", 288, 384, three, 2), ("branch3x3dbl_1", 288, 64, one, 1),
        ("branch3x3dbl_2", 64, 96, three, 1), ("branch3x3dbl_3", 96, 96, three, 2),
    ):  # fmt: skip
        add("Mixed_6a", name, *shape)
    for block, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        for name, *shape in (
            ("branch1x1", 768, 192, one, 1), ("branch7x7_1", 768, c, one, 1),
            ("branch7x7_2", c, c, wide, 1), ("branch7x7_3", c, 192, tall, 1),
            ("branch7x7dbl_1", 768, c, one, 1), ("branch7x7dbl_2", c, c, tall, 1),
            ("branch7x7dbl_3", c, c, wide, 1), ("branch7x7dbl_4", c, c, tall, 1),
            ("branch7x7dbl_5", c, 192, wide, 1), ("branch_pool", 768, 192, one, 1),
        ):  # fmt: skip
            add(f"Mixed_{block}", name, *shape)
    for name, *shape in (
        ("branch3x3_1", 768, 192, one, 1), ("branch3x3_2", 192, 320, three, 2),
        ("branch7x7x3_1", 768, 192, one, 1), ("branch7x7x3_2", 192, 192, wide, 1),
        ("branch7x7x3_3", 192, 192, tall, 1), ("branch7x7x3_4", 192, 192, three, 2),
    ):  # fmt: skip
        add("Mixed_7a", name, *shape)
    for block, i in (("7b", 1280), ("7c", 2048)):
        for name, *shape in (
            ("branch1x1", i, 320, one, 1), ("branch3x3_1", i, 384, one, 1),
            ("branch3x3_2a", 384, 384, (1, 3), 1), ("branch3x3_2b", 384, 384, (3, 1), 1),
            ("branch3x3dbl_1", i, 448, one, 1), ("branch3x3dbl_2", 448, 384, three, 1),
            ("branch3x3dbl_3a", 384, 384, (1, 3), 1), ("branch3x3dbl_3b", 384, 384, (3, 1), 1),
            ("branch_pool", i, 192, one, 1),
        ):  # fmt: skip
            add(f"Mixed_{block}", name, *shape)
    return out


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns a state dict of the published layout with random weights."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, (i, o, kernel, _, _) in plan().items():
        scale = np.sqrt(2 / (i * kernel[0] * kernel[1]))
        out[f"{name}.conv.weight"] = rng.normal(0, scale, (o, i, *kernel))
        for key, mean in (("weight", 1), ("bias", 0), ("running_mean", 0)):
            out[f"{name}.bn.{key}"] = rng.normal(mean, 0.1, o)
        out[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, o)
    out["fc.weight"], out["fc.bias"] = rng.normal(0, 0.02, (1008, 2048)), np.zeros(1008)
    return {k: v.astype(np.float32) for k, v in out.items()}


def torch_network(tensors: dict[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns pool3 of uint8 images [b, h, w, 3] by the same network in PyTorch, norms folded."""
    import torch
    import torch.nn.functional as F

    folded = {}
    for name, (_, _, _, stride, padding) in plan().items():
        get = {k: torch.tensor(tensors[f"{name}.{k}"]) for k in _KEYS}
        scale = get["bn.weight"] / torch.sqrt(get["bn.running_var"] + 1e-3)
        kernel = get["conv.weight"] * scale[:, None, None, None]
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        bias = get["bn.bias"] - get["bn.running_mean"] * scale
        folded[name] = (kernel, bias, stride, padding)

    def conv(x, *names):
        for name in names:
            kernel, bias, stride, padding = folded[name]
            x = F.relu_(F.conv2d(x, kernel, bias, stride, padding))
        return x

    def average(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def chain(block, *names):
        return [f"Mixed_{block}.{n}" for n in names]

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.tensor(images).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) / 127.5 - 1
            x = x.contiguous(memory_format=torch.channels_last)
            x = conv(x, "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
            x = conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1", "Conv2d_4a_3x3")
            x = F.max_pool2d(x, 3, 2)
            for b in ("5b", "5c", "5d"):
                double = chain(b, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
                x = torch.cat([
                    conv(x, *chain(b, "branch1x1")),
                    conv(x, *chain(b, "branch5x5_1", "branch5x5_2")),
                    conv(x, *double),
                    conv(average(x), *chain(b, "branch_pool")),
                ], 1)  # fmt: skip
            double = chain("6a", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
            x = torch.cat([
                conv(x, *chain("6a", "branch3x3")), conv(x, *double), F.max_pool2d(x, 3, 2)
            ], 1)  # fmt: skip
            for b in ("6b", "6c", "6d", "6e"):
                x = torch.cat([
                    conv(x, *chain(b, "branch1x1")),
                    conv(x, *chain(b, *(f"branch7x7_{i}" for i in range(1, 4)))),
                    conv(x, *chain(b, *(f"branch7x7dbl_{i}" for i in range(1, 6)))),
                    conv(average(x), *chain(b, "branch_pool")),
                ], 1)  # fmt: skip
            x = torch.cat([
                conv(x, *chain("7a", "branch3x3_1", "branch3x3_2")),
                conv(x, *chain("7a", *(f"branch7x7x3_{i}" for i in range(1, 5)))),
                F.max_pool2d(x, 3, 2),
            ], 1)  # fmt: skip
            for b in ("7b", "7c"):
                pooled = average(x) if b == "7b" else F.max_pool2d(x, 3, 1, 1)
                y = conv(x, *chain(b, "branch3x3_1"))
                z = conv(x, *chain(b, "branch3x3dbl_1", "branch3x3dbl_2"))
                x = torch.cat([
                    conv(x, *chain(b, "branch1x1")),
                    *(conv(y, *chain(b, f"branch3x3_2{k}")) for k in "ab"),
                    *(conv(z, *chain(b, f"branch3x3dbl_3{k}")) for k in "ab"),
                    conv(pooled, *chain(b, "branch_pool")),
                ], 1)  # fmt: skip
            return x.mean((2, 3)).numpy()

    return run


_KEYS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def seconds(call: Callable[[], Any]) -> float:
    """Returns the time of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def features(batch: int, rounds: int, with_torch: bool) -> None:
    """Prints images per second of both, their ratio and the share of the statistics."""
    tensors = random_weights()
    module, variables = weights.load("fid-inception", tensors, protocol="pytorch-fid")
    assert isinstance(module, FIDInception)
    network = inception_network("pytorch-fid", module, variables)
    images = np.random.default_rng(1).integers(0, 256, (batch, 64, 64, 3), np.uint8)
    at = np.arange(batch)

    def ours() -> dict:
        placed = spread_over_devices(lambda i: images[i], at, images.shape[1:])
        return jax.block_until_ready(network(placed))  # pyright: ignore[reportArgumentType]

    accumulator = Accumulator()
    runs: dict[str, Callable[[], Any]] = {"genjax": ours}
    found = ours()["features"]
    accumulator.add(found)
    for _ in range(-(-2100 // batch)):  # past the rows that few images keep
        accumulator.add(found)
    runs["statistics"] = lambda: accumulator.add(found)
    if with_torch:
        peer = torch_network(tensors)
        want, own = peer(images), np.asarray(found)
        print(f"features agree within {np.abs(own - want).max() / np.abs(want).max():.1e} relative")
        runs["PyTorch"] = lambda: peer(images)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            times[name].append(seconds(call))
    median = {name: float(np.median(t)) for name, t in times.items()}
    print(f"batch {batch}, {rounds} rounds, {jax.device_count()} {jax.devices()[0].device_kind}")
    for name in runs.keys() - {"statistics"}:
        print(f"{name}: {batch / median[name]:.2f} images a second")
    if with_torch:
        print(f"genjax / PyTorch: {median['PyTorch'] / median['genjax']:.2f} times the speed")
    print(
        f"statistics: {100 * median['statistics'] / median['genjax']:.1f} % of the features' time"
    )


def metrics(n: int) -> None:
    """Prints a table of the metrics' own cost on n features of either side."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(m, 1, (n, 2048)).astype(np.float32) for m in (0, 0.1))
    logits = rng.normal(0, 3, (n, 1008)).astype(np.float32)
    pictures = of_arrays("x", rng.integers(0, 256, (min(n, 500), 64, 64, 3), np.uint8))

    class Network:
        name, hash, protocol = "inception", "0" * 64, "given features"

    def evidence(f: np.ndarray) -> Evidence:
        return Evidence("given", n, pictures, of_features(f), f, logits)

    a, b = evidence(x), evidence(y)
    print(f"| metric | seconds for {n:,} + {n:,} features |\n| --- | --- |")
    print(f"| statistics of one side | {seconds(partial(of_features, x)):.2f} |")
    distance = partial(frechet, given(a.statistics), given(b.statistics))
    print(f"| Frechet distance alone | {seconds(distance):.2f} |")
    of_features_alone = "fid fid_infinity kid cmmd is precision recall density coverage"
    for name in of_features_alone.split():
        metric = METRICS.build({"name": name})
        took = seconds(partial(metric, a, evidence(y), Network, 0))
        print(f"| {name} | {took:.2f} |", flush=True)
    for name in ("psnr", "ssim", "spread"):
        took = seconds(partial(METRICS.build({"name": name}), a, b, None, 0))
        print(f"| {name} of {pictures.size} images 64x64 | {took:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch", default="yes", choices=("yes", "no"))
    parser.add_argument("--metrics", type=int, metavar="N", help="print the metrics' cost instead")
    args = parser.parse_args()
    if args.metrics:
        metrics(args.metrics)
    else:
        features(args.batch, args.rounds, args.torch == "yes")


if __name__ == "__main__":
    main()
