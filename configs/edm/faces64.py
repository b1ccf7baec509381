"""EDM at 64 x 64: FFHQ and AFHQv2, unconditional (config F), `DATA-NET` such as `ffhq-vp`.

    genjax train --config configs/edm/faces64.py:ffhq-vp --workdir gs://BUCKET/edm-ffhq

Images: a folder each, scaled to 64 x 64 on reading.
"""

from configs.edm import recipe

# Data set -> dropout, FID of (VP, VE), table 2, row F.
ROWS = {"ffhq": (0.05, 2.39, 2.53), "afhqv2": (0.25, 1.96, 2.16)}


def get_config(arg: str = "ffhq-vp"):
    data, _, net = arg.partition("-")
    if data not in ROWS or net not in ("vp", "ve"):
        raise ValueError(f"{arg!r} is no row; choose ffhq-vp, ffhq-ve, afhqv2-vp or afhqv2-ve")
    dropout, *fid = ROWS[data]
    c = recipe.get_base(batch=256, learning_rate=2e-4, half_life=5e5, images=200_000_000)
    variant = "edm-ncsnpp-64" if net == "ve" else "edm-ddpmpp-64"
    model = dict(name="unet", variant=variant, dropout=dropout)
    task = dict(name="diffusion", model=model, image=(64, 64, 3), augment=dict(name="edm", p=0.15))
    c.task = recipe.edm(task) | dict(sampler=recipe.heun(40))
    source = dict(name="image_folder", path=f"data/{data}")
    c.data.main = dict(source=source, batch=256, image_size=64, fields=("image",))
    c.target = dict(
        dataset=f"{data} 64x64",
        metric="fid50k",
        value=fid[net == "ve"],
        nfe=79,
        guidance=1.0,
        protocol="Heun 40 steps, rho 7, EMA, smallest of three, best snapshot",
        source="arXiv 2206.00364, table 2",
    )
    return c
