"""DiT on ImageNet 512 x 512 (latents 64 x 64 x 4): `configs/dit/imagenet512.py:XL/2`.

XL/2 is the paper's (3M steps, FID-50K 3.04 with guidance 1.5). It published no other size at 512:
those run, without a target.
"""

from configs.dit import imagenet


def get_config(arg: str = "XL/2"):
    c = imagenet.ddpm(imagenet.get_base(arg, 512), guidance=1.5)
    c.train.images = 256 * 3_000_000
    if arg == "XL/2":
        c.target = dict(
            dataset="imagenet2012 512x512",
            metric="fid50k",
            value=3.04,
            nfe=250,
            guidance=1.5,
            protocol=(
                "250 DDPM steps, learned variance, EMA 0.9999, uniform labels, ft-EMA decoder, "
                "guidance on 3 channels, ADM suite against VIRTUAL_imagenet512"
            ),
            source="arXiv 2212.09748, table 3",
        )
    return c
