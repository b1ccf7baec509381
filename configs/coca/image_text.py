"""CoCa-Base on pictures with captions, as Parti trained it to rerank its candidates.

    genjax train --config configs/coca/image_text.py --workdir gs://BUCKET/coca

Pictures of 288 x 288 pixels, texts of 64 ids. Optimiser and rate are those of arXiv 2205.01917 as
we remember them; Parti says only that the data are its own, so the batch is Parti's too.
"""

from configs import base

BATCH, STEPS = 8_192, 500_000


def get_config():
    c = base.get_base()
    model = dict(name="coca", variant="base", dtype="bfloat16", remat="weights")
    c.task = dict(name="coca", model=model)
    source = dict(name="array_record", path="data/image-text288")
    text = dict(name="sentencepiece", model="data/image-text-captions64k", length=64)
    c.data.main = dict(source=source, batch=BATCH, image_size=288, text=text)
    c.train.images = BATCH * STEPS
    c.optimizer.model = dict(
        name="adafactor",
        learning_rate=8e-4,
        schedule=dict(name="linear", warmup=BATCH * 10_000, final=0.0),
        b1=0.9,
        b2=0.999,
        weight_decay=1e-2,
        clip=1.0,
        stacked=("image/", "text/", "joint/"),
    )
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = BATCH * 2_500
    c.heldout.every_images = 0  # a folder of records has no split of its own
    return c
