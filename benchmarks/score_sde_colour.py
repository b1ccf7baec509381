"""Colourisation by Score SDE on a colour set of real pictures: cuts, trains, colours, measures.

    python benchmarks/score_sde_colour.py [--num 64]

The set: 16 x 16 patches of scikit-learn's two photographs at half size; the right fifth of each
photograph is held out. Everything lies in runs/colour_patches and runs/score_sde_colour; a complete
training is not repeated. Printed are the largest error of the grey values that were given (before
rounding to 8 bits), the mean colourfulness of results and of the real patches, and the distance of
the colours to the true ones beside that of another patch's colours.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from genjax.cli.model import load
from genjax.core import keys
from genjax.data.report import save_grid
from genjax.solvers.operators import colorize
from genjax.tasks.edit import Edit, measured_picture

ROOT = Path(__file__).resolve().parents[1]
PATCHES, WORKDIR = ROOT / "runs" / "colour_patches", ROOT / "runs" / "score_sde_colour"
SIDE, STRIDE, HELDOUT = 16, 6, 0.8


def cut() -> None:
    """Writes the patches as PNGs, those of the right of each photograph apart."""
    if PATCHES.exists():
        return
    for number, pixels in enumerate(load_sample_images().images):
        photo = Image.fromarray(pixels)
        photo = np.asarray(
            photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BOX)
        )
        border = int(photo.shape[1] * HELDOUT)
        for part, low, high in (("train", 0, border), ("test", border, photo.shape[1])):
            (PATCHES / part).mkdir(parents=True, exist_ok=True)
            for top in range(0, photo.shape[0] - SIDE + 1, STRIDE):
                for left in range(low, high - SIDE + 1, STRIDE):
                    patch = photo[top : top + SIDE, left : left + SIDE]
                    Image.fromarray(patch).save(PATCHES / part / f"{number}_{top}_{left}.png")


def train() -> None:
    command = "genjax.cli.main train --config configs/score_sde/colour_patches.py"
    args = [*command.split(), "--workdir", str(WORKDIR)]
    subprocess.run([sys.executable, "-m", *args], cwd=ROOT, check=True)


def colourfulness(x: np.ndarray) -> np.ndarray:
    """Returns per image the root mean square distance of pixels [b, h, w, 3] to their own grey."""
    return np.sqrt(np.mean((x - x.mean(-1, keepdims=True)) ** 2, axis=(1, 2, 3)))


def measure(num: int) -> None:
    model = load(str(WORKDIR))
    files = sorted((PATCHES / "test").iterdir())
    chosen = np.random.default_rng(0).choice(len(files), num, replace=False)
    pixels = np.stack([np.asarray(Image.open(files[i])) for i in chosen])
    task = model.task
    x = np.asarray(task.from_pixels(jnp.asarray(pixels)))
    operator = colorize(task.image)
    edit = Edit(task)
    sample_keys = keys.per_sample(keys.key(0, "sample"), jnp.arange(num))
    drawn, _ = jax.jit(edit.draw_measured)(
        model.params, {"operator": operator}, edit.rows(), sample_keys, {"image": jnp.asarray(x)}
    )
    found = np.asarray(drawn)
    grey = np.abs(np.asarray(operator.measure(drawn) - operator.measure(jnp.asarray(x))))
    print(f"grey values kept to {grey.max():.2e} of a range of 1 ({num} held-out patches)")
    print(f"outside [0, 1]: {np.mean((found < 0) | (found > 1)):.2%} of values")
    made, real = (colourfulness(a).mean() for a in (found, x))
    print(f"colourfulness: results {made:.4f}, real {real:.4f}")

    def colours(a):
        return a - a.mean(-1, keepdims=True)

    def distance(a):
        return np.sqrt(np.mean((colours(a) - colours(x)) ** 2, axis=(1, 2, 3)))

    for name, other in (("results", found), ("another patch", np.roll(x, 1, axis=0))):
        print(f"distance to the true colours: {name} {np.median(distance(other)):.4f} (median)")
    shown = [pixels, np.asarray(task.to_uint8(measured_picture(task, operator, jnp.asarray(x))))]
    rows = [a[:16] for a in (*shown, np.asarray(task.to_uint8(drawn)))]
    save_grid(np.concatenate(rows), str(WORKDIR / "colorize.png"), columns=16)
    print(f"real, grey, coloured -> {WORKDIR / 'colorize.png'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--num", type=int, default=64, help="held-out patches")
    args = parser.parse_args()
    cut()
    train()
    measure(args.num)


if __name__ == "__main__":
    main()
