"""What the stages of ViT-VQGAN and of Parti's tokenizer have in common (section 5.1)."""

from typing import Any

from configs import base

BATCH, STEPS, WARMUP = 256, 500_000, 50_000


def get_base(variant: str, head: str) -> Any:
    """Returns stage 1 on 256 x 256 pixels: 1,024 codes of 8,192; the data are the caller's."""
    c = base.get_base()
    c.task = dict(
        name="tokenizer",
        model=dict(name="vit_vqgan", variant=variant, head=head),
        discriminator=dict(name="stylegan_discriminator"),
        image=(256, 256, 3),
    )
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.train.images = BATCH * STEPS
    optimizer = dict(
        name="adamw",
        learning_rate=1e-4,
        schedule=dict(name="cosine", warmup=BATCH * WARMUP, final=0.5),  # ends at 5e-5
        b1=0.9,
        b2=0.99,
        weight_decay=1e-4,
    )
    c.optimizer = dict(tokenizer=optimizer, discriminator=dict(optimizer))
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = BATCH * 5_000
    c.checkpoint.keep_every_images = BATCH * 100_000
    c.samples.every_images = BATCH * 5_000
    # The paper's usage of the codebook is that of batches of 256 test images.
    c.heldout = dict(every_images=BATCH * 5_000, num=2_048, batch=256, split="validation")
    return c
