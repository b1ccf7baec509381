"""Super-resolution at the size of a CPU: the 32 x 32 reconstructions of `shapes` to 64 x 64.

    genjax train --config configs/super_resolution/shapes.py --workdir runs/shapes/enlarger

The tokenizer is that of launch/shapes.sh.
"""

from configs import base
from configs.vit_vqgan import shapes as tokenizer

BATCH, STEPS = 32, 1_000


def get_config():
    c = base.get_base()
    c.task = dict(
        name="enlarger",
        model=dict(name="wdsr", blocks=3, width=16),
        objective=dict(perceptual=0.0),
        codec=dict(name="vit_vqgan", path="runs/shapes/tokenizer", model=dict(tokenizer.MODEL)),
    )
    c.data.main = dict(source=dict(name="shapes", side=64), batch=BATCH)
    c.train.images = BATCH * STEPS
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule=dict(name="cosine", warmup=BATCH * 50, final=0.05),
        b2=0.99,
        weight_decay=1e-4,
    )
    c.log.every_images = BATCH * 50
    c.checkpoint.every_images = BATCH * 500
    c.samples.every_images = BATCH * 500
    c.heldout.every_images = 0
    return c
