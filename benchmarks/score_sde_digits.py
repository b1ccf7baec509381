"""Score SDE's claims on scikit-learn's digits, over several seeds: trains, measures, prints.

    python benchmarks/score_sde_digits.py train --sde vp --seeds 0 1 2     # and subvp, and ve
    python benchmarks/score_sde_digits.py measure --judge runs/digits-classifier

Bits/dim of sub-VP against VP; VE sampled with the corrector against the predictor alone, at equal
NFE; and the loss by noise level beside that of the ideal denoiser of the training digits, on the
same draws. Workdirs are runs/score_sde/SDE-SEED; a complete run is not repeated. The judge is a run
of configs/classifier/digits.py.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from genjax.cli.model import load
from genjax.cli.sample import write_samples
from genjax.data import SOURCES
from genjax.objectives.diffusion import bin_edges
from genjax.solvers import SOLVERS
from genjax.tasks.generate import Generator

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "score_sde"
SDES = ("vp", "subvp", "ve")
BINS, DRAWS = 10, 8192
NFE, SAMPLES = 400, 1000


def genjax_command(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "genjax.cli.main", *args], cwd=ROOT, check=True)


def train(sde: str, seed: int) -> None:
    genjax_command(
        "train",
        f"--config=configs/score_sde/digits.py:{sde}",
        f"--workdir={RUNS / f'{sde}-{seed}'}",
        f"--config.seed={seed}",
    )


def evaluate(name: str, *args: str) -> float:
    """Returns the one value that `genjax eval` measures; keeps its report in RUNS/name.json."""
    report = RUNS / f"{name}.json"
    genjax_command("eval", *args, f"--json={report}")
    (entry,) = json.loads(report.read_text())["metrics"].values()
    return entry["value"]


def bits(sde: str, seed: int) -> float:
    """Returns bits/dim of the 360 held-out digits."""
    where = f"--workdir={RUNS / f'{sde}-{seed}'}"
    data = ("--reference=digits:test", "--heldout=none")
    return evaluate(f"bits-{sde}-{seed}", where, *data, "--metrics=bpd", "--tolerance=1e-4")


def frechet(seed: int, corrector: str, discretisation: str, judge: str) -> float:
    """Returns the Frechet distance of VE samples to the training digits, at NFE evaluations."""
    model = load(str(RUNS / f"ve-{seed}"))
    solver = SOLVERS.build(
        {
            "name": "pc",
            "predictor": {"name": "reverse_diffusion"},
            "corrector": {"name": corrector},
            "discretisation": discretisation,
        }
    )
    steps = NFE if corrector == "none" else NFE // 2
    generator = Generator(model.task.with_sampler(solver=solver, steps=steps), batch=SAMPLES)
    assert generator.task.nfe == NFE
    drawn = generator(model.params, model.frozen, num=SAMPLES, labels=None, seed=0)
    images = np.concatenate([images for images, _ in drawn])
    name = f"ve-{seed}-{corrector}-{discretisation}"
    write_samples(RUNS / f"{name}.npz", images, None)
    samples = f"--samples={RUNS / f'{name}.npz'}"
    data = ("--reference=digits", "--heldout=none")
    return evaluate(name, samples, *data, f"--extractor=classifier:{judge}", "--metrics=fid")


def loss_by_noise_level(sde: str, seed: int) -> list[dict[str, float]]:
    """Returns per bin the noise's squared error of the network, of the ideal, and its error bar."""
    model = load(str(RUNS / f"{sde}-{seed}"))
    process = model.task.process
    source = SOURCES.build({"name": "digits"}).open()
    pixels = np.stack([source[i]["image"] for i in range(len(source))])
    data = np.asarray(model.task.from_pixels(pixels), np.float64)
    rng = np.random.default_rng(0)
    x0 = data[rng.integers(0, len(data), DRAWS)]
    t = rng.uniform(process.t_min, process.t_max, DRAWS)
    eps = rng.standard_normal(x0.shape)
    alpha, sigma = (f(t)[:, None, None, None] for f in (process.alpha, process.sigma))
    x = alpha * x0 + sigma * eps
    ideal = _ideal(x, alpha, sigma, data)
    found = np.concatenate(
        [
            np.asarray(model.denoise(jnp.asarray(x[i : i + 512]), jnp.asarray(t[i : i + 512])))
            for i in range(0, DRAWS, 512)
        ]
    )
    network, best = (
        np.mean(((x - alpha * estimate) / sigma - eps) ** 2, axis=(1, 2, 3))
        for estimate in (found, ideal)
    )
    index = np.searchsorted(bin_edges(process, BINS), process.lam(t))
    rows = []
    for i in range(BINS):
        here = index == i
        if here.sum() > 1:
            gap = network[here] - best[here]
            error = gap.std() / np.sqrt(here.sum())
            means = {"network": network[here].mean(), "ideal": best[here].mean()}
            rows.append({"bin": i, **means, "error": error})
    return rows


def _ideal(x, alpha, sigma, data) -> np.ndarray:
    """Returns E[x0 | x] for x0 uniform on `data`: a softmax-weighted mean."""
    flat, out = data.reshape(len(data), -1), []
    for xi, a, s in zip(x.reshape(len(x), -1), alpha.ravel(), sigma.ravel()):
        log = -np.sum((xi - a * flat) ** 2, axis=1) / (2 * s * s)
        weight = np.exp(log - log.max())
        out.append(weight @ flat / weight.sum())
    return np.reshape(out, x.shape)


def interval(values: list[float]) -> str:
    """Returns mean and half-width of the 95 % interval (Student's t for 2 to 5 values)."""
    width = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    half = width * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.4f} +- {half:.4f}   ({', '.join(f'{v:.4f}' for v in values)})"


def measure(seeds: list[int], judge: str) -> None:
    nll = {sde: [bits(sde, seed) for seed in seeds] for sde in ("vp", "subvp")}
    distance = {
        (corrector, form): [frechet(seed, corrector, form, judge) for seed in seeds]
        for form in ("consistent", "legacy")
        for corrector in ("langevin", "none")
    }
    for sde, values in nll.items():
        print(f"bits/dim {sde}: {interval(values)}")
    print(f"bits/dim vp - subvp: {interval(list(np.subtract(nll['vp'], nll['subvp'])))}")
    for (corrector, form), values in distance.items():
        print(f"Frechet ve, corrector {corrector}, {form}, NFE {NFE}: {interval(values)}")
    for sde in SDES:
        for row in loss_by_noise_level(sde, seeds[0]):
            below = row["network"] < row["ideal"] - 3 * row["error"]
            print(
                f"{sde} bin {row['bin']}: {row['network']:.4f}, ideal {row['ideal']:.4f}, "
                f"standard error of the gap {row['error']:.4f}" + "  BELOW THE IDEAL" * below
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("train", "measure"))
    parser.add_argument("--sde", choices=SDES, help="train this one (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--judge", default="runs/digits-classifier")
    args = parser.parse_args()
    if args.what == "measure":
        measure(args.seeds, args.judge)
        return
    for sde in [args.sde] if args.sde else SDES:
        for seed in args.seeds:
            train(sde, seed)


if __name__ == "__main__":
    main()
