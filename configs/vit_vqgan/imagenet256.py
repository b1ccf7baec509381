"""ViT-VQGAN on ImageNet 256 x 256: SS, BB or SL (encoder, then decoder); tables 1 and 4.

    genjax train --config configs/vit_vqgan/imagenet256.py:SL --workdir gs://BUCKET/vit-vqgan-sl \\
        --config.task.lpips=lpips-vgg.safetensors

SS is the tokenizer of stage 2. Without LPIPS weights the perceptual loss is off.
"""

from configs.vit_vqgan import recipe

RFID = {"SS": 1.99, "BB": 1.55, "SL": 1.28}


def get_config(arg: str = "SS"):
    if arg not in RFID:
        raise ValueError(f"{arg!r} is no published pair; choose one of {', '.join(RFID)}")
    c = recipe.get_base(arg, "logit_laplace")
    source = dict(name="tfds", dataset="imagenet2012")
    c.data.main = dict(source=source, batch=recipe.BATCH, image_size=256, flip=True)
    c.target = dict(
        dataset="ImageNet 256 x 256, 50,000 validation images",
        metric="FID of reconstructions",
        value=RFID[arg],
        nfe=1,
        guidance=1.0,
        protocol="reconstructions against the same images, resized and cropped alike",
        source="arXiv 2110.04627, tables 3 and 4",
    )
    return c
