"""Parti's tokenizer: stage 1 `small`, then `decoder`, which trains a large decoder on its codes.

    genjax train --config configs/vit_vqgan/parti.py:small --workdir gs://BUCKET/parti-tokenizer
    genjax train --config configs/vit_vqgan/parti.py:decoder --workdir gs://BUCKET/parti-decoder \\
        --config.init.encoder=gs://BUCKET/parti-tokenizer

RGB straight from the decoder, no logit-Laplace term. Encoder and codebook stay as they are in the
second stage, so codes made of the first one's stay valid (`genjax prepare tokens`).
"""

from configs.vit_vqgan import recipe


def get_config(arg: str = "small"):
    if arg not in ("small", "decoder"):
        raise ValueError(f"{arg!r} is no stage; choose small or decoder")
    c = recipe.get_base("SS" if arg == "small" else "SL", "rgb")
    source = dict(name="array_record", path="data/image-text256")
    c.data.main = dict(source=source, batch=recipe.BATCH, image_size=256, flip=True)
    c.heldout.every_images = 0  # a folder of records has no split of its own
    if arg == "decoder":
        c.task.stage = "decoder"
        c.task.model.remat = "weights"
    return c
