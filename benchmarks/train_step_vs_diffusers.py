"""The train step of DiT-S/4 here against diffusers' DiTTransformer2DModel in PyTorch, two threads.

    python benchmarks/train_step_vs_diffusers.py [--batch 16] [--rounds 5]

Needs the `parity` extra. Both take the same step (MSE of the first channels, AdamW, EMA), float32;
the best of alternating rounds counts. On CPUs the two libraries multiply matrices at different
rates, so each rate is printed beside its step.
"""

import argparse
import os
import time

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import diffusers  # noqa: E402
import torch  # noqa: E402
from train_step import SHAPE, SIDE, Step, batch_of, product, seconds  # noqa: E402

from genjax.models.dit import VARIANTS, DiT  # noqa: E402

VARIANT = "S/4"


def network(size: str) -> torch.nn.Module:
    """Returns diffusers' DiT of a size of ours."""
    fields = VARIANTS[size]
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=fields["heads"],
        attention_head_dim=fields["width"] // fields["heads"],
        in_channels=SHAPE[-1],
        out_channels=2 * SHAPE[-1],
        num_layers=fields["depth"],
        sample_size=SHAPE[0],
        patch_size=fields["patch"],
        num_embeds_ada_norm=1000,
    )


class TorchStep:
    """diffusers' network of the same size, AdamW and an EMA by fused list operations."""

    def __init__(
        self,
        batch: dict,
        size: str = VARIANT,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ):
        self.dtype, self.model = dtype, network(size).to(device)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.batch = {k: torch.tensor(v.__array__(), device=device) for k, v in batch.items()}
        for name in ("x", "target"):
            self.batch[name] = self.batch[name].permute(0, 3, 1, 2).contiguous()
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-4, weight_decay=0.0, foreach=True)
        self()

    def __call__(self) -> float:
        x, target, t = (self.batch[name] for name in ("x", "target", "t"))
        half = self.dtype != torch.float32
        with torch.autocast(x.device.type, self.dtype, enabled=half):
            out = self.forward(x, timestep=t, class_labels=self.batch["label"].long()).sample
        loss = torch.mean((out[:, : SHAPE[-1]].float() - target) ** 2)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.params, 1e-4)
        return float(loss.detach())


def torch_product():
    """Returns PyTorch's calibrating product, warm."""
    a = torch.randn(SIDE, SIDE)
    return lambda: (a @ a).sum().item()


def timed(fn) -> float:
    """Returns the time of one call of something synchronous."""
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many counts")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)

    batch = batch_of(args.batch)
    model = DiT(**VARIANTS[VARIANT])
    ours, theirs = Step(model, batch), TorchStep(batch)
    multiply, operations = product("float32")
    multiply_torch = torch_product()
    best: dict[str, float] = dict.fromkeys(("ours", "theirs", "jax", "torch"), float("inf"))
    for _ in range(args.rounds):
        best["jax"] = min(best["jax"], seconds(multiply))
        best["ours"] = min(best["ours"], seconds(ours))
        best["torch"] = min(best["torch"], timed(multiply_torch))
        best["theirs"] = min(best["theirs"], timed(theirs))
    work = 3 * args.batch * model.forward_flops(SHAPE)
    rates = {name: operations / best[name] for name in ("jax", "torch")}
    print(f"DiT-{VARIANT}, batch {args.batch}, float32, {THREADS} threads, {os.cpu_count()} cores")
    for name, step, rate in (("genjax", "ours", "jax"), ("diffusers", "theirs", "torch")):
        share = work / rates[rate] / best[step]
        print(
            f"{name:10s} {best[step] * 1e3:7.0f} ms a step, {share:.2f} of its own "
            f"{rates[rate] / 1e9:.0f} GFLOP/s in products"
        )
    print(f"speed of genjax / diffusers: {best['theirs'] / best['ours']:.2f}")


if __name__ == "__main__":
    main()
