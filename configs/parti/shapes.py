"""Parti at the size of a CPU, on 8 x 8 codes of `shapes` with captions; see launch/shapes.sh.

    genjax train --config configs/parti/shapes.py --workdir runs/shapes/parti

Its data are those of `genjax prepare captions` and `genjax prepare tokens`. Rate and optimiser are
ours: the paper's are for batches a hundred times as large.
"""

from configs import base
from configs.vit_vqgan import shapes as tokenizer

BATCH, STEPS = 64, 5_000
ROOT = "runs/shapes"
TEXT = dict(name="sentencepiece", model=f"{ROOT}/text", length=48)
VOCAB = 384  # the captions of `shapes` make 322 pieces


def get_config():
    c = base.get_base()
    c.task = dict(
        name="autoregressive",
        model=dict(
            name="parti",
            codes=tokenizer.CODES,
            grid=tokenizer.GRID,
            vocab=VOCAB,
            text_length=TEXT["length"],
            encoder_depth=2,
            depth=4,
            width=128,
            hidden=512,
            heads=4,
            kernel=5,
        ),
        codec=dict(name="vit_vqgan", path=f"{ROOT}/tokenizer", model=dict(tokenizer.MODEL)),
        sampler=dict(guidance=dict(weight=2.0), cache="float32"),
    )
    source = dict(name="array_record", path=f"{ROOT}/tokens")
    c.data.main = dict(source=source, batch=BATCH, text=dict(TEXT))
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule=dict(name="cosine", warmup=BATCH * 200, final=0.05),
        b2=0.96,
        weight_decay=4.5e-2,
        clip=4.0,
    )
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.train.images = BATCH * STEPS
    c.log.every_images = BATCH * 100
    c.checkpoint.every_images = BATCH * 1_000
    c.samples = dict(every_images=BATCH * 1_000, num=16)
    c.heldout.every_images = 0  # a folder of records has no split of its own
    return c
