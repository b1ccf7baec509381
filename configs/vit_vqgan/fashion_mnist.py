"""A tokenizer of Fashion-MNIST, padded to 32 x 32: 64 codes of 512, with a small discriminator.

    bash launch/get_fashion_mnist.sh
    genjax train --config configs/vit_vqgan/fashion_mnist.py --workdir runs/fashion-tokenizer

About an hour on two CPU cores. `plain` leaves out what makes the codebook of ViT-VQGAN: codes are
as wide as the encoder and not normalised.
"""

from configs import base

BATCH, STEPS = 64, 4_700  # five epochs


def get_config(arg: str = ""):
    if arg not in ("", "plain"):
        raise ValueError(f"{arg!r}: give nothing, or plain for a codebook without factorisation")
    size = dict(depth=4, heads=4, width=128, hidden=512)
    code = dict(dim=128, l2=False) if arg else dict(dim=8)
    c = base.get_base()
    c.task = dict(
        name="tokenizer",
        model=dict(
            name="vit_vqgan",
            encoder_size=size,
            decoder_size=dict(size),
            quantizer=dict(name="vq", size=512, **code),
            patch=4,
            grid=(8, 8),
            channels=1,
        ),
        discriminator=dict(name="stylegan_discriminator", multiplier=0.0625, max_channels=64),
        objective=dict(perceptual=0.0),
        image=(32, 32, 1),
    )
    c.data.main = dict(source=dict(name="fashion_mnist"), batch=BATCH, pad=2)
    c.train.images = BATCH * STEPS
    optimizer = dict(
        name="adamw",
        learning_rate=5e-4,
        schedule=dict(name="cosine", warmup=BATCH * 200, final=0.05),
        b2=0.99,
        weight_decay=1e-4,
    )
    c.optimizer = dict(tokenizer=optimizer, discriminator=dict(optimizer, learning_rate=2e-4))
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = BATCH * 940
    c.samples.every_images = BATCH * 940
    c.heldout = dict(every_images=BATCH * 940, num=2_048, batch=256)
    return c
