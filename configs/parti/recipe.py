"""What Parti and VIM share: batch, steps, Adafactor and its rate (sections 4.1 and 5.2)."""

from typing import Any

from configs import base

WARMUP, STEPS = 5_000, 450_000


def get_base(variant: str, *, batch: int, rate: float, hold: int, final: float) -> Any:
    """Returns the recipe; the rate holds until step `hold` and decays to `final` of its peak."""
    c = base.get_base()
    model = dict(name="parti", variant=variant, dtype="bfloat16", remat="weights")
    codec = dict(name="vit_vqgan", model=dict(name="vit_vqgan", variant="SS", head="rgb"))
    c.task = dict(name="autoregressive", model=model, codec=codec)
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.train.images = batch * STEPS
    c.optimizer.model = dict(
        name="adafactor",
        learning_rate=rate,
        schedule=dict(name="exponential", warmup=batch * WARMUP, hold=batch * hold, final=final),
        b1=0.9,
        b2=0.96,
        weight_decay=4.5e-2,
        clip=4.0,
        moment_dtype="int8",
        stacked=("blocks/",),
    )
    c.log.every_images = batch * 100
    c.checkpoint.every_images = batch * 2_500
    c.checkpoint.keep_every_images = batch * 50_000
    c.samples.every_images = 0
    c.heldout.every_images = 0  # a folder of records has no split of its own
    return c
