"""Skip-Tuning's curves on a trained U-Net: errors and norm ratios by noise level and rho.

    python benchmarks/skip_tuning.py --model runs/fashion-edm
        --judge runs/fashion-classifier --reference fashion_mnist:test [--num 512]

For every noise level: the pixel error E|D - x0|^2 and the error of a classifier's features, each
over its value at rho = 1, and the norm ratio of skips at rho = 1. Prints the tables and writes
skip_tuning.png into the model's workdir. The search for the best rho of few-step sampling is
`genjax search --config configs/search/skip_scale.py`.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from genjax.cli.eval_inputs import load_classifier, open_data
from genjax.cli.model import load
from genjax.core import keys
from genjax.evaluation import Tools, open_extractor
from genjax.scaling.plots import curves
from genjax.tasks.skips import denoising_errors, norm_ratios

RHO = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1)
LEVELS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # sigma/alpha


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="workdir of a trained U-Net")
    parser.add_argument("--judge", required=True, help="workdir of a classifier")
    parser.add_argument("--reference", required=True, help="real images, such as digits:test")
    parser.add_argument("--num", type=int, default=512)
    args = parser.parse_args()
    model = load(args.model)
    task, shape = model.task, tuple(model.task.image)
    judge = open_extractor(f"classifier:{args.judge}", Tools(load_classifier))
    data = open_data(args.reference, shape, model.config)
    rows = np.arange(args.num)
    x0 = task.from_pixels(jnp.asarray(data.read(rows)))
    labels = data.labels
    cond = {"label": jnp.asarray(labels[rows])} if task.num_classes and labels is not None else None
    image_keys = keys.per_sample(keys.key(0, "skips"), jnp.arange(args.num))

    def features(x):
        return judge(task.to_uint8(x))["features"]

    @jax.jit
    def errors(params, t, rho):
        return denoising_errors(task, params, x0, t, image_keys, cond, rho, features)

    @jax.jit
    def ratios(params, t):
        return norm_ratios(task, params, x0, t, image_keys, cond)

    k = task.model.num_skips
    pixel, feature = {}, {}
    for level in LEVELS:
        t = jnp.float32(task.process.t_of_lam(np.float64(level)))
        found = [errors(model.params, t, jnp.full(k, rho)) for rho in RHO]
        one = found[RHO.index(1.0)]
        pixel[level], feature[level] = ([float(f[i] / one[i]) for f in found] for i in (0, 1))
        prop = np.asarray(ratios(model.params, t))
        print(f"sigma {level:g}: prop, bottom first: {' '.join(f'{p:.2f}' for p in prop)}")
    for name, table in (("pixel", pixel), ("feature", feature)):
        print(f"{name} error over that at rho = 1; rho:", " ".join(f"{r:6.2f}" for r in RHO))
        for level, values in table.items():
            print(f"  sigma {level:5g}               ", " ".join(f"{v:6.3f}" for v in values))
    series = {f"pixel, sigma {s:g}": (RHO, pixel[s]) for s in (0.2, 1.0, 5.0)}
    series |= {f"features, sigma {s:g}": (RHO, feature[s]) for s in (0.2, 1.0, 5.0)}
    out = Path(args.model) / "skip_tuning.png"
    out.write_bytes(curves(series, "rho", "error over its value at rho = 1", log=False))
    print(f"-> {out}")


if __name__ == "__main__":
    main()
