"""NCSN++ at 256 x 256 (LSUN bedroom and church, FFHQ, CelebA-HQ), continuous VE.

    genjax train --config configs/score_sde/ve256.py:church --workdir gs://BUCKET/church

The paper shows samples and gives no number. Images: a folder each, centre-cropped on reading.
"""

from configs.score_sde import recipe

SIGMA_MAX = {"bedroom": 378.0, "church": 380.0, "ffhq": 348.0, "celebahq": 348.0}


def get_config(arg: str = "church"):
    if arg not in SIGMA_MAX:
        raise ValueError(f"{arg!r} is no data set; choose one of {', '.join(SIGMA_MAX)}")
    c = recipe.get_base(64, 2_400_000, ema=0.999)
    model = dict(name="unet", variant="ncsnpp-256", center=True)
    task = dict(name="diffusion", model=model, image=(256, 256, 3))
    c.task = recipe.ve(task, sigma_max=SIGMA_MAX[arg], snr=0.075, steps=2000)
    source = dict(name="image_folder", path=f"data/{arg}")
    c.data.main = dict(source=source, batch=64, image_size=256, flip=True, fields=("image",))
    return c
