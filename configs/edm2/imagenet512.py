"""EDM2 on ImageNet 512 x 512 in the latents of Stable Diffusion's ft-MSE autoencoder.

    genjax prepare latents --source tfds:imagenet2012:train --size 512 \\
        --vae sd-vae-ft-mse/diffusion_pytorch_model.safetensors --out data/imagenet512-mse-latents
    genjax train --config configs/edm2/imagenet512.py:S --workdir gs://BUCKET/edm2-s
    genjax eval --workdir gs://BUCKET/edm2-s --ema posthoc:0.13 --reference NAME --metrics fid

The argument is XXS, XS, S (without one), M, L, XL or XXL.
"""

from configs.edm2 import recipe

LENGTHS = {"XXS": 2048, "XS": 2048, "S": 2048, "M": 2048, "L": 1792, "XL": 1280, "XXL": 896}
# FID without guidance, and the width of the EMA that gave it.
FID = {
    "XS": (3.53, 0.135), "S": (2.56, 0.130), "M": (2.25, 0.100),
    "L": (2.06, 0.085), "XL": (1.96, 0.085), "XXL": (1.91, 0.070),
}  # fmt: skip
MEANS, STDS = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)  # of the raw latents


def get_config(variant="S"):
    c = recipe.get_base(variant, LENGTHS, t_ref=70_000, mean=-0.4, std=1.0)
    codec = dict(
        name="kl_vae",
        path="sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        shift=MEANS,
        scale=tuple(0.5 / std for std in STDS),
    )
    c.task.update(dict(codec=codec, image=(512, 512, 3), latents=True))
    c.data.main.update(dict(source=dict(name="array_record", path="data/imagenet512-mse-latents")))
    c.target = recipe.target("imagenet2012 512x512", *FID.get(variant, (None, None)))
    return c
