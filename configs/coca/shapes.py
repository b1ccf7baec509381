"""CoCa at the size of a CPU, on pictures and captions of `shapes`: it reranks Parti's candidates.

    genjax train --config configs/coca/shapes.py --workdir runs/shapes/coca

It sees the combinations of colour and shape of the training split alone; see launch/shapes.sh.
"""

from configs import base
from configs.parti import shapes as parti

BATCH, STEPS = 128, 1_500


def get_config():
    c = base.get_base()
    c.task = dict(
        name="coca",
        model=dict(
            name="coca",
            size=32,
            patch=4,
            image_depth=3,
            text_depth=2,
            joint_depth=2,
            vocab=parti.VOCAB,
            text_length=parti.TEXT["length"],
            width=128,
            hidden=512,
            heads=4,
            queries=16,
            embedding=64,
        ),
    )
    source = dict(name="shapes", size=100_000)
    c.data.main = dict(source=source, batch=BATCH, text=dict(parti.TEXT))
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule=dict(name="cosine", warmup=BATCH * 100, final=0.05),
        b2=0.98,
        weight_decay=1e-2,
        clip=1.0,
    )
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.train.images = BATCH * STEPS
    c.log.every_images = BATCH * 50
    c.checkpoint.every_images = BATCH * 500
    c.heldout = dict(every_images=BATCH * 500, num=512, batch=128, split="heldout")
    return c
