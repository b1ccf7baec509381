"""NCSN++ on CelebA 64 x 64, discrete VE with sigma_max 90 (no number in the paper).

    genjax train --config configs/score_sde/celeba64.py --workdir gs://BUCKET/celeba64

The paper crops the centre 140 x 140 and scales it to 64; here a folder of images so prepared.
"""

from configs.score_sde import recipe


def get_config():
    c = recipe.get_base(128, 1_300_000, ema=0.999)
    model = dict(name="unet", variant="ncsnpp-discrete", dropout=0.1, center=True)
    task = dict(name="diffusion", model=model, image=(64, 64, 3))
    c.task = recipe.ve(task, sigma_max=90.0, snr=0.17, discrete=True)
    source = dict(name="image_folder", path="data/celeba-140")
    c.data.main = dict(source=source, batch=128, image_size=64, flip=True, fields=("image",))
    return c
