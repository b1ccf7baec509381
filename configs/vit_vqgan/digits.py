"""A tokenizer of scikit-learn's 8 x 8 digits: 16 codes of 256; seconds on two CPU cores.

    genjax train --config configs/vit_vqgan/digits.py --workdir runs/digits-tokenizer

The argument WIDTH or WIDTH-plain is the width of a code (8 by default) without or with l2
normalisation left out: the ablation of table 4 in miniature (benchmarks/vit_vqgan_digits.py).
"""

from configs import base

BATCH, STEPS = 64, 700


def get_config(arg: str = "8"):
    width, _, plain = arg.partition("-")
    if not width.isdigit() or plain not in ("", "plain"):
        raise ValueError(f"{arg!r}: give the width of a code, such as 8, or 8-plain without l2")
    size = dict(depth=1, heads=4, width=32, hidden=128)
    c = base.get_base()
    c.task = dict(
        name="tokenizer",
        model=dict(
            name="vit_vqgan",
            encoder_size=size,
            decoder_size=dict(size),
            quantizer=dict(name="vq", size=256, dim=int(width), l2=not plain),
            patch=2,
            grid=(4, 4),
            channels=1,
        ),
        objective=dict(perceptual=0.0),
        image=(8, 8, 1),
        levels=17,
    )
    c.data.main = dict(source=dict(name="digits"), batch=BATCH)
    c.train.images = BATCH * STEPS
    c.optimizer = dict(
        tokenizer=dict(
            name="adamw",
            learning_rate=1e-3,
            schedule=dict(name="cosine", warmup=BATCH * 100, final=0.05),
            b2=0.99,
            weight_decay=1e-4,
        )
    )
    c.log.every_images = BATCH * 100
    c.samples.every_images = c.train.images
    c.heldout = dict(every_images=BATCH * 350, num=360, batch=360)
    return c
