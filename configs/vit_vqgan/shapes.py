"""A tokenizer of the data set `shapes`: 8 x 8 codes of 512 for pictures of 32 x 32 pixels.

    genjax train --config configs/vit_vqgan/shapes.py --workdir runs/shapes/tokenizer

Squared error alone: the checker of `shapes` reads colours, shapes and textures off the
reconstructions of combinations that training never shows. See launch/shapes.sh.
"""

from configs import base

BATCH, STEPS = 64, 4_000
SIZE = dict(depth=2, heads=4, width=128, hidden=512)
CODES, GRID = 512, (8, 8)
MODEL = dict(
    name="vit_vqgan",
    encoder_size=SIZE,
    decoder_size=SIZE,
    quantizer=dict(name="vq", size=CODES, dim=8),
    patch=4,
    grid=GRID,
)


def get_config():
    c = base.get_base()
    c.task = dict(
        name="tokenizer",
        model=dict(MODEL),
        objective=dict(perceptual=0.0),
        image=(32, 32, 3),
    )
    c.data.main = dict(source=dict(name="shapes", size=100_000), batch=BATCH)
    c.train.images = BATCH * STEPS
    c.optimizer = dict(
        tokenizer=dict(
            name="adamw",
            learning_rate=1e-3,
            schedule=dict(name="cosine", warmup=BATCH * 200, final=0.05),
            b2=0.99,
            weight_decay=1e-4,
        )
    )
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = BATCH * 1_000
    c.samples.every_images = BATCH * 1_000
    c.heldout = dict(every_images=BATCH * 500, num=512, batch=256, split="heldout")
    return c
