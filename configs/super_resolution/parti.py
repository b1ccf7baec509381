"""Parti's super-resolution of its tokenizer's 256 x 256 reconstructions: 512 or 1024.

    genjax train --config configs/super_resolution/parti.py:512 --workdir gs://BUCKET/parti-512 \\
        --config.task.codec.path=gs://BUCKET/parti-decoder --config.task.lpips=lpips-vgg.safetensors

WDSR-A, 12 blocks of 128 channels a doubling; losses and their weights are ViT-VQGAN's. Optimiser,
rate, batch and length are not published: they are the tokenizer's, at a quarter of its batch. The
reconstructions should be those of the decoder that will draw the pictures (the large one here).
"""

from configs.vit_vqgan import recipe

BATCH, STEPS = 64, 500_000


def get_config(arg: str = "512"):
    if arg not in ("512", "1024"):
        raise ValueError(f"{arg!r} is no size; choose 512 or 1024")
    c = recipe.get_base("SL", "rgb")
    tokenizer = c.task.model.to_dict()
    c.task = dict(
        name="enlarger",
        model=dict(name="wdsr", variant=arg, dtype="bfloat16"),
        discriminator=dict(name="stylegan_discriminator"),
        codec=dict(name="vit_vqgan", path="runs/parti-decoder", model=tokenizer),
    )
    source = dict(name="array_record", path=f"data/image-text{arg}")
    c.data.main = dict(source=source, batch=BATCH, image_size=int(arg), flip=True)
    optimizer = c.optimizer.tokenizer.to_dict()
    optimizer["schedule"]["warmup"] = BATCH * recipe.WARMUP
    c.optimizer = dict(model=optimizer, discriminator=dict(optimizer))
    c.train.images = BATCH * STEPS
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = BATCH * 5_000
    c.checkpoint.keep_every_images = BATCH * 100_000
    c.heldout.every_images = 0  # a folder of records has no split of its own
    return c
