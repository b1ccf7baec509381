"""Table 4 of ViT-VQGAN in miniature: code width and l2 normalisation on scikit-learn's digits.

    python benchmarks/vit_vqgan_digits.py            # trains four tokenizers, then a table
    python benchmarks/vit_vqgan_digits.py --seeds 0 1 2

Mean squared error and PSNR are those of the 360 held-out digits; codes used and perplexity those
of all 1,797. Exits with 1 unless leaving out either of factorisation and normalisation raises the
error and lowers the codes used by a fifth, and the default's error is below 0.012. Workdirs are
runs/vit_vqgan_digits/ROW-SEED; a complete run is not repeated.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from genjax.checkpoint import Workdir
from genjax.cli.schema import build_run, expand_run
from genjax.cli.trained import read_params
from genjax.cli.workdir import read_config
from genjax.data import open_source

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "vit_vqgan_digits"
ROWS = ("8", "8-plain", "32", "32-plain")
MARGIN, MOST = 1.2, 0.012


def images(split: str) -> np.ndarray:
    source = open_source(f"digits:{split}")
    return np.stack([source[i]["image"] for i in range(len(source))])


def measured(row: str, seed: int) -> dict[str, float]:
    """Returns error, PSNR, codes used and perplexity of one trained tokenizer."""
    workdir = RUNS / f"{row}-{seed}"
    command = [sys.executable, "-m", "genjax.cli.main", "train", f"--workdir={workdir}"]
    config = f"--config=configs/vit_vqgan/digits.py:{row}"
    subprocess.run([*command, config, f"--config.seed={seed}"], cwd=ROOT, check=True)
    run = build_run(expand_run(read_config(Workdir(str(workdir))) or {}))
    params, _ = read_params(str(workdir), run, "raw")
    train, test = images("train"), images("test")
    again = np.asarray(jax.jit(run.task.reconstruct)(params, run.task.from_pixels(test)).image)
    error = float(np.mean((np.clip(again, 0, 1) - test / 16.0) ** 2))
    codes = np.asarray(jax.jit(run.task.encode)(params, np.concatenate([train, test])))
    counts = np.bincount(codes.ravel(), minlength=run.task.model.quantizer.size)
    p = counts[counts > 0] / counts.sum()
    return {
        "mse": error,
        "psnr": -10 * np.log10(error),
        "codes": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(p * np.log(p)).sum())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training each")
    seeds = parser.parse_args().seeds
    means = {}
    print("| code width | l2 | test MSE | PSNR | codes used | perplexity |")
    print("| --- " * 6 + "|")
    for row in ROWS:
        found = [measured(row, seed) for seed in seeds]
        mean = means[row] = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
        width, _, plain = row.partition("-")
        print(
            f"| {width} | {'no' if plain else 'yes'} | {mean['mse']:.4f} | {mean['psnr']:.1f} dB | "
            f"{mean['codes']:.0f} / 256 | {mean['perplexity']:.1f} |",
            flush=True,
        )
    best, failed = means["8"], []
    for row in ("8-plain", "32"):
        if means[row]["mse"] < MARGIN * best["mse"] or means[row]["codes"] * MARGIN > best["codes"]:
            failed.append(row)
    if best["mse"] >= MOST:
        failed.append("8")
    print("the orderings of table 4 hold" if not failed else f"not as in table 4: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
