"""DiT on ImageNet 256 x 256: `configs/dit/imagenet256.py:XL/2`, size S, B, L, XL, patch 2, 4, 8.

    genjax train --config configs/dit/imagenet256.py:XL/2 --workdir gs://BUCKET/dit-xl-2

XL/2 is trained to the paper's final 7M steps (FID-50K 2.27 with guidance 1.5), the others to the
400k steps of its scaling study (no guidance).
"""

from configs.dit import imagenet


def get_config(arg: str = "XL/2"):
    final = arg == "XL/2"
    c = imagenet.ddpm(imagenet.get_base(arg, 256), guidance=1.5 if final else 1.0)
    c.train.images = 256 * (7_000_000 if final else 400_000)
    c.target = dict(
        dataset="imagenet2012 256x256",
        metric="fid50k",
        value=2.27 if final else imagenet.DIT_400K[arg],
        nfe=250,
        guidance=1.5 if final else 1.0,
        protocol=(
            "250 DDPM steps, learned variance, EMA 0.9999, uniform labels, "
            f"{'ft-EMA decoder, guidance on 3 channels' if final else 'ft-MSE decoder'}, "
            "ADM suite against VIRTUAL_imagenet256_labeled"
        ),
        source=f"arXiv 2212.09748, {'table 2' if final else 'table 4'}",
    )
    return c
