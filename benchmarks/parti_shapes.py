"""How many objects of held-out prompts Parti draws right, with and without guidance and reranking.

    python benchmarks/parti_shapes.py --tokenizer runs/shapes/tokenizer --parti runs/shapes/parti
        --coca runs/shapes/coca [--num 512] [--candidates 16] [--guidance 2]

launch/shapes.sh trains the three. The prompts are captions of `shapes:heldout`, whose combinations
of colour and shape no stage has seen; the exact checker reads colours and shapes off the pictures,
and CoCa alone chooses candidates. Prints the checker's share on reconstructions, which bounds the
rest, then a table and what reranking gains, with standard errors over prompts. Exits with 1 unless
guidance with the best of the candidates is right for 80 % of the objects and reranking gains more
than two standard errors.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from genjax.cli.frozen import read_tokenizer
from genjax.cli.model import load
from genjax.cli.prompts import draw
from genjax.cli.rerank import open_scorer
from genjax.data import open_source
from genjax.evaluation.shapes_score import score
from genjax.models.vit_vqgan import ViTVQGAN

LEAST, ERRORS = 0.8, 2.0


def judged(images: np.ndarray, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many objects of each caption are right, and how many it says."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda pair: score(*pair).objects, zip(images, captions)))
    right, said = np.array(found).T
    return right, said


def share(right: np.ndarray, said: np.ndarray) -> tuple[float, float]:
    """Returns the share of objects that are right, and its standard error over prompts.

    `right` may be differences of two counts: the same share of what one gains over the other.
    """
    value = right.sum() / said.sum()
    error = np.sqrt(np.mean((right - value * said) ** 2) / len(said)) / said.mean()
    return float(value), float(error)


def reconstructed(path: str, images: np.ndarray) -> np.ndarray:
    """Returns uint8 images [n, h, w, c] through the tokenizer at `path`."""
    module, variables, _ = read_tokenizer(path, "--tokenizer")

    @jax.jit
    def again(x):
        y = module.apply(
            variables, module.apply(variables, x, method=ViTVQGAN.encode), method="decode"
        )
        return jax.numpy.clip(jax.numpy.floor(255 * y + 0.5), 0, 255).astype("uint8")

    return np.concatenate([again(part / np.float32(255)) for part in np.array_split(images, 8)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("tokenizer", "parti", "coca"):
        parser.add_argument(f"--{name}", required=True, help=f"workdir of the trained {name}")
    parser.add_argument("--num", type=int, default=512, help="held-out prompts")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--guidance", type=float, help="weight (default: the config's)")
    parser.add_argument("--batch", type=int, default=256, help="samples at a time")
    args = parser.parse_args()
    source = open_source("shapes:heldout")
    captions = [str(source.caption(i)) for i in range(args.num)]
    real = np.stack([source[i]["image"] for i in range(args.num)])
    for name, images in (("real", real), ("reconstructed", reconstructed(args.tokenizer, real))):
        value, error = share(*judged(images, captions))
        print(f"{name} pictures: {value:.1%} +- {error:.1%} of the objects", flush=True)
    model, scorer = load(args.parti), open_scorer(args.coca)
    weight = args.guidance or model.task.sampler.guidance.weight
    print("| guidance | candidates | objects right | standard error |\n| --- | --- | --- | --- |")
    best, failed = 0.0, []
    for w in (1.0, weight):
        counts = {}
        for r in (1, args.candidates):
            drawn = draw(model, captions, candidates=r, scorer=scorer, guidance=w, batch=args.batch)
            counts[r] = judged(drawn.images, captions)
            best, error = share(*counts[r])
            print(f"| {w:g} | {r} | {best:.1%} | {error:.1%} |", flush=True)
        said = counts[1][1]
        gain, error = share(counts[args.candidates][0] - counts[1][0], said)
        print(f"guidance {w:g}: reranking gains {gain:+.1%} +- {error:.1%}", flush=True)
        if w == weight and gain <= ERRORS * error:
            failed.append("the gain of reranking")
    if best < LEAST:
        failed.append(f"{LEAST:.0%} of the objects")
    print("as it should be" if not failed else f"not reached: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
