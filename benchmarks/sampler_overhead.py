"""What sampling costs beyond its network: a compiled sampler against as many forward passes.

    python benchmarks/sampler_overhead.py [--steps 50] [--batch 4] [--repeats 7] [--clock cpu]

The network is a DiT-S/4 on 32x32x4 latents in float32. Each solver runs as one compiled program;
the baseline is one compiled forward pass of the same network, times the number of evaluations.
Both are timed in turn and the median ratio is printed: 1.00 is no overhead, the target < 1.03.
On a machine that others use too, `--clock cpu` compares processor time instead of wall time.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp

from genjax.core import keys as keys_lib
from genjax.models import MODELS
from genjax.process.table import Table
from genjax.solvers import GRIDS, GUIDANCES, SOLVERS, noise, sample

TARGET = 1.03
SOLVERS_TIMED = (
    {"name": "ddim"},
    {"name": "ddpm", "variance": "learned"},
    {"name": "heun"},
)


def compare(whole, single, calls: int, repeats: int, clock) -> tuple[float, float, float]:
    """Returns the median over repeats of sampler/(calls x forward), and both medians in seconds.

    The forward passes run as long as the sampler, before and after it, so that both see the same
    clock speed and the same neighbours on the machine.
    """

    def seconds(fn, times: int) -> float:
        start = clock()
        for _ in range(times):
            jax.block_until_ready(fn())
        return clock() - start

    seconds(whole, 1)  # compiles
    seconds(single, 1)
    ratios, wholes, singles = [], [], []
    for _ in range(repeats):
        before = seconds(single, calls)
        total = seconds(whole, 1)
        after = seconds(single, calls)
        ratios.append(2 * total / (before + after))
        wholes.append(total)
        singles.append((before + after) / 2)
    median = statistics.median
    return median(ratios), median(wholes), median(singles)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times compiled samplers against forward passes.")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == "wall" else time.process_time

    model, process, b = MODELS.build({"name": "dit", "variant": "S/4"}), Table(), args.batch
    keys = keys_lib.per_sample(keys_lib.key(0, "benchmark"), jnp.arange(b))
    cond = {"label": jnp.arange(b) % 1000}
    null = {"label": jnp.full(b, 1000)}
    x = noise(keys, (32, 32, 4))
    params = jax.jit(model.init)(jax.random.key(0), x, jnp.zeros(b), cond)

    def forward(params, x, t, cond):
        return model.apply(params, x, jnp.broadcast_to(t, x.shape[:1]), cond)

    def denoise(params, x, t, cond):
        raw = forward(params, x, t - 1, cond)
        x0 = (x - process.sigma(t) * raw[..., :4]) / process.alpha(t)
        return SimpleNamespace(x0=x0, variance=raw[..., 4:], features={})

    jitted = jax.jit(forward)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {b}, {args.steps} steps")
    for guidance in ({"name": "none"}, {"name": "cfg", "weight": 4.0}):
        guide = GUIDANCES.build(guidance)
        copies = 1 if guidance["name"] == "none" else 2
        wide = jnp.concatenate([x] * copies)
        labels = {"label": jnp.concatenate([cond["label"], null["label"]][:copies])}
        for fields in SOLVERS_TIMED:
            solver = SOLVERS.build(fields).bind(process)
            grid = GRIDS.build({"name": "trailing"}).times(process, args.steps)
            rows = jax.tree.map(jnp.asarray, guide.rows(process, solver.rows(grid)))

            @jax.jit
            def whole(params, rows, x, keys, cond, null, solver=solver, guide=guide):
                predict, memory = guide.wrap(
                    lambda x, t, cond, inputs: denoise(params, x, t, cond), cond, null
                )
                return sample(solver, predict, rows, x, keys, memory)

            ratio, total, once = compare(
                lambda run=whole, rows=rows: run(params, rows, x, keys, cond, null),
                lambda wide=wide, labels=labels: jitted(params, wide, 500.0, labels),
                solver.nfe(args.steps),
                args.repeats,
                clock,
            )
            verdict = "ok" if ratio < TARGET else "over the target"
            nfe = solver.nfe(args.steps)
            print(
                f"{fields['name']:4s} guidance {guidance['name']:4s} {nfe:4d} NFE:"
                f" sampler {total:7.3f} s, forwards {once:7.3f} s, ratio {ratio:.3f} ({verdict})"
            )


if __name__ == "__main__":
    main()
