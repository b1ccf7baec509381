"""Decoding time per code: our cached scan against Hugging Face's `generate`, the same layer sizes.

    python benchmarks/decoding_vs_transformers.py [--batch 4] [--rounds 3]

Needs the `parity` extra. Encoder of 2 and decoder of 6 layers of 512 channels, 8 heads, 2,048
hidden, 8,192 codes, texts of 32 ids, float32, two threads, sampling without guidance; theirs is
T5 (ReLU, no biases, pre-norm, untied softmax; RMS norms and relative positions instead of ours).
Alternating rounds, the best counts. Ours comes with a full cache of dense attention and, under the
conv pattern, with a full cache and with the ring. Beside each time stands its share of the bound
that reading the decoder's weights and the keys and values of every step from memory sets, at the
bandwidth that summing a large array reaches here. Last, our time per code at two lengths: beyond
attention nothing may grow with the position.
"""

import argparse
import os
import time

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import T5Config, T5ForConditionalGeneration  # noqa: E402

from genjax.core import keys as keys_lib  # noqa: E402
from genjax.core.registry import construct, expand  # noqa: E402
from genjax.core.tree import flatten  # noqa: E402
from genjax.tasks import Autoregressive  # noqa: E402

WIDTH, HIDDEN, HEADS, ENCODER, DEPTH, CODES, TEXT, SIDE = 512, 2048, 8, 2, 6, 8192, 32, 16


class Ours:
    """Parti on `side` x `side` codes."""

    def __init__(self, batch: int, pattern: str, ring: bool, side: int = SIDE):
        model = {
            "name": "parti",
            "codes": CODES,
            "grid": (side, side),
            "vocab": 1000,
            "text_length": TEXT,
            "encoder_depth": ENCODER,
            "depth": DEPTH,
            "width": WIDTH,
            "hidden": HIDDEN,
            "heads": HEADS,
            "pattern": pattern,
            "kernel": 5,
        }
        tokenizer = {"name": "vit_vqgan", "variant": "SS", "grid": (side, side)}
        fields = {
            "model": model,
            "codec": {"name": "vit_vqgan", "model": tokenizer},
            "sampler": {"cache": "float32", "ring": ring},
        }
        task = construct(Autoregressive, expand(Autoregressive, fields, "task"), "task")
        self.params = jax.jit(lambda: nn.unbox(task.init(jax.random.key(0))["params"]["model"]))()
        rows = jax.tree.map(jnp.asarray, task.rows())
        sample_keys = keys_lib.per_sample(keys_lib.key(0, "sample"), jnp.arange(batch))
        cond = {"tokens": jnp.full((batch, TEXT), 5, jnp.int32)}
        draw = jax.jit(lambda p: task.draw_codes(p, rows, sample_keys, cond))
        self.draw = lambda: jax.block_until_ready(draw(self.params))
        self.length = side * side
        slots = len(task.model.seen) if ring else self.length
        of = flatten(self.params)
        weights = sum(v.size for k, v in of.items() if k.startswith(("blocks", "softmax")))
        self.bytes = 4 * (weights + 2 * DEPTH * batch * (slots + TEXT) * WIDTH)


class Theirs:
    def __init__(self, batch: int):
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=CODES,
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=HIDDEN,
            num_layers=ENCODER,
            num_decoder_layers=DEPTH,
            num_heads=HEADS,
            feed_forward_proj="relu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            eos_token_id=None,
        )
        self.model = T5ForConditionalGeneration(config).eval()
        self.text = torch.full((batch, TEXT), 5)

    @torch.no_grad()
    def draw(self):
        n = SIDE * SIDE
        out = self.model.generate(
            self.text, do_sample=True, top_k=0, min_new_tokens=n, max_new_tokens=n, use_cache=True
        )
        assert out.shape[1] == n + 1
        return out


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bandwidth() -> float:
    """Returns bytes a second that a sum over 512 MiB reads, the best of five."""
    x = jnp.ones((2**27,), jnp.float32)
    total = jax.jit(jnp.sum)
    call = lambda: jax.block_until_ready(total(x))  # noqa: E731
    call()
    return x.nbytes / min(seconds(call) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    rate = bandwidth()
    ours = {
        "ours, dense attention": Ours(args.batch, "dense", ring=False),
        "ours, conv pattern, full cache": Ours(args.batch, "conv", ring=False),
        "ours, conv pattern, ring": Ours(args.batch, "conv", ring=True),
        "ours, dense attention, a quarter of the codes": Ours(
            args.batch, "dense", False, SIDE // 2
        ),
    }
    runs = {**ours, "transformers": Theirs(args.batch)}
    best = dict.fromkeys(runs, np.inf)
    for run in runs.values():
        run.draw()  # compiles
    for _ in range(args.rounds):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run.draw))
    print(f"{SIDE * SIDE} codes, batch {args.batch}, {THREADS} threads, {rate / 1e9:.1f} GB/s")
    for name, run in runs.items():
        steps = getattr(run, "length", SIDE * SIDE)
        line = f"{name}: {best[name]:.2f} s, {1e3 * best[name] / steps:.2f} ms a step"
        if name in ours:
            share = ours[name].bytes / rate * steps / best[name]
            line += f", {share:.0%} of the memory bound ({ours[name].bytes / 1e6:.0f} MB a step)"
        print(line)
    ratio = best["transformers"] / best["ours, dense attention"]
    print(f"transformers / ours, dense: {ratio:.2f}")


if __name__ == "__main__":
    main()
