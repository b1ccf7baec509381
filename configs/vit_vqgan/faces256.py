"""ViT-VQGAN on faces of 256 x 256 pixels: ffhq or celebahq; the recipe is ImageNet's.

    genjax train --config configs/vit_vqgan/faces256.py:ffhq --workdir gs://BUCKET/vit-vqgan-ffhq \\
        --config.data.main.source.path=data/ffhq256 --config.task.lpips=lpips-vgg.safetensors
"""

from configs.vit_vqgan import recipe

RFID = {"ffhq": 3.13, "celebahq": 4.66}


def get_config(arg: str = "ffhq"):
    if arg not in RFID:
        raise ValueError(f"{arg!r} is no data set of faces; choose one of {', '.join(RFID)}")
    c = recipe.get_base("SS", "logit_laplace")
    source = dict(name="array_record", path=f"data/{arg}256")
    c.data.main = dict(source=source, batch=recipe.BATCH, image_size=256, flip=True)
    c.heldout.every_images = 0  # a folder of records has no split of its own
    c.target = dict(
        dataset=f"{arg} 256 x 256, held-out images (splits of taming-transformers)",
        metric="FID of reconstructions",
        value=RFID[arg],
        nfe=1,
        guidance=1.0,
        protocol="the pair of sizes behind this number is not printed; SS is ours to assume",
        source="arXiv 2110.04627",
    )
    return c
