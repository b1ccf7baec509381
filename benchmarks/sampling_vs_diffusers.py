"""Sampling time per image: our compiled DDIM against diffusers' loop, the same network size.

    python benchmarks/sampling_vs_diffusers.py [--steps 20] [--batch 4] [--rounds 3]

Needs the `parity` extra. DiT-S/4 on 32x32x4 latents, float32, two threads, classifier-free guidance
in one doubled batch on both sides: diffusers' DiTTransformer2DModel under its DDIMScheduler in a
Python loop without gradients, ours as one program. Alternating rounds, the best counts. The ratio
of single forward passes of the two is printed beside it: what is left is the loop's.
"""

import argparse
import os
import time

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import diffusers  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402
from train_step_vs_diffusers import network  # noqa: E402

from genjax.core import keys as keys_lib  # noqa: E402
from genjax.core.registry import construct, expand  # noqa: E402
from genjax.tasks import Diffusion  # noqa: E402

SHAPE, SIZE, WEIGHT = (32, 32, 4), "S/4", 4.0


class Ours:
    def __init__(self, steps: int, batch: int):
        task = {
            "model": {"name": "dit", "variant": SIZE},
            "process": {"name": "table", "betas": "linear", "n": 1000, "lo": 1e-4, "hi": 2e-2},
            "precond": {"name": "eps"},
            "objective": {"name": "hybrid"},
            "times": {"name": "index"},
            "image": SHAPE,
            "sampler": {
                "solver": {"name": "ddim"},
                "grid": {"name": "leading"},
                "guidance": {"name": "cfg", "weight": WEIGHT},
                "steps": steps,
            },
        }
        made = construct(Diffusion, expand(Diffusion, task, "task"), "task")
        params = made.init(jax.random.key(0))["params"]["model"]
        self.params = jax.tree.map(
            lambda box: box.value, params, is_leaf=lambda leaf: hasattr(leaf, "value")
        )
        self.rows = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), made.rows())
        self.keys = keys_lib.per_sample(keys_lib.key(0, "sample"), jnp.arange(batch))
        self.cond = {"label": jnp.arange(batch, dtype=jnp.int32)}
        self.draw = jax.jit(lambda p, rows, keys, cond: made.draw(p, {}, rows, keys, cond))
        x = jnp.zeros((2 * batch, *SHAPE))
        label = jnp.zeros(2 * batch, jnp.int32)
        single = jax.jit(lambda p: made.model.apply({"params": p}, x, jnp.zeros(2 * batch), label))
        self.single = lambda: jax.block_until_ready(single(self.params))

    def __call__(self) -> None:
        jax.block_until_ready(self.draw(self.params, self.rows, self.keys, self.cond))


class Theirs:
    def __init__(self, steps: int, batch: int):
        self.model = network(SIZE).eval()
        self.scheduler = diffusers.DDIMScheduler(clip_sample=False)
        self.scheduler.set_timesteps(steps)
        self.labels = torch.cat([torch.arange(batch), torch.full((batch,), 1000)])
        self.batch = batch

    @torch.inference_mode()
    def single(self) -> torch.Tensor:
        x = torch.zeros(2 * self.batch, SHAPE[-1], *SHAPE[:2])
        t = torch.zeros(2 * self.batch, dtype=torch.long)
        return self.model(x, timestep=t, class_labels=self.labels).sample

    @torch.inference_mode()
    def __call__(self) -> None:
        x = torch.randn(self.batch, SHAPE[-1], *SHAPE[:2])
        for t in self.scheduler.timesteps:
            both = torch.cat([x, x])
            times = t.expand(2 * self.batch)
            out = self.model(both, timestep=times, class_labels=self.labels).sample
            yes, no = out[:, : SHAPE[-1]].chunk(2)
            eps = no + WEIGHT * (yes - no)
            x = self.scheduler.step(eps, t, x).prev_sample


def seconds(fn) -> float:
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    sides = {"genjax": Ours(args.steps, args.batch), "diffusers": Theirs(args.steps, args.batch)}
    best: dict[tuple[str, str], float] = {}
    for _ in range(args.rounds + 1):  # the first compiles and warms up
        for name, side in sides.items():
            for what, fn in (("sample", side), ("forward", side.single)):
                took = seconds(fn)
                best[name, what] = min(best.get((name, what), float("inf")), took)
    print(
        f"DiT-{SIZE}, {args.steps} steps of DDIM, guidance, batch {args.batch}, {THREADS} threads"
    )
    for name in sides:
        whole, single = best[name, "sample"], best[name, "forward"]
        print(
            f"{name:10s} {1000 * whole / args.batch:8.1f} ms an image; "
            f"{whole / (args.steps * single):.3f} of its {args.steps} forward passes"
        )
    for what in ("sample", "forward"):
        ratio = best["diffusers", what] / best["genjax", what]
        print(f"speed of genjax / diffusers, {what}: {ratio:.2f}")


if __name__ == "__main__":
    main()
