"""Parti at the size of a CPU, on 8 x 8 codes of `shapes` with captions.

    genjax train --config configs/parti/shapes.py --workdir runs/shapes-parti \\
        --config.task.codec.path=runs/shapes-tokenizer/export

The tokenizer's fields (codec.model) must be those of the tokenizer that made data/shapes-tokens.
"""

from configs import base

BATCH, STEPS = 64, 6_000


def get_config():
    c = base.get_base()
    size = dict(depth=2, heads=4, width=128, hidden=512)
    tokenizer = dict(
        name="vit_vqgan",
        encoder_size=size,
        decoder_size=dict(size),
        quantizer=dict(name="vq", size=256, dim=8),
        patch=4,
        grid=(8, 8),
    )
    c.task = dict(
        name="autoregressive",
        model=dict(
            name="parti",
            codes=256,
            grid=(8, 8),
            vocab=512,
            text_length=64,
            encoder_depth=3,
            depth=4,
            width=128,
            hidden=512,
            heads=4,
            kernel=5,
        ),
        codec=dict(name="vit_vqgan", model=tokenizer),
        sampler=dict(guidance=dict(weight=3.0), cache="float32"),
    )
    source = dict(name="array_record", path="data/shapes-tokens")
    text = dict(name="sentencepiece", model="data/shapes-captions", length=64)
    c.data.main = dict(source=source, batch=BATCH, text=text)
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
    c.samples.every_images = 0
    c.heldout.every_images = 0
    return c
