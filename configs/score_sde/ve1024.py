"""NCSN++ at 1024 x 1024 (CelebA-HQ, FFHQ), continuous VE with sigma_max 1348.

    genjax train --config configs/score_sde/ve1024.py:celebahq --workdir gs://BUCKET/celebahq

The paper shows samples and gives no number. FFHQ's loss is a mean over pixels, as published.
"""

from configs.score_sde import recipe


def get_config(arg: str = "celebahq"):
    if arg not in ("celebahq", "ffhq"):
        raise ValueError(f"{arg!r} is no data set; choose celebahq or ffhq")
    c = recipe.get_base(8, 2_400_000, ema=0.9999)
    model = dict(name="unet", variant="ncsnpp-1024", center=True, remat="full")
    task = dict(name="diffusion", model=model, image=(1024, 1024, 3))
    c.task = recipe.ve(task, sigma_max=1348.0, snr=0.15, steps=2000)
    if arg == "ffhq":
        c.task["objective"]["reduction"] = "mean"
    source = dict(name="image_folder", path=f"data/{arg}-1024")
    c.data.main = dict(source=source, batch=8, image_size=1024, flip=True, fields=("image",))
    return c
