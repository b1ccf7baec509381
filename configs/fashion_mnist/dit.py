"""A pixel-space flow-matching DiT on Fashion-MNIST: under an hour on two CPU cores.

    bash launch/get_fashion_mnist.sh
    genjax train --config configs/fashion_mnist/dit.py --workdir runs/fashion

28 x 28 pixels, patch 4: 49 tokens.
"""

from configs import base


def get_config():
    c = base.get_base()
    c.task = dict(
        name="diffusion",
        model=dict(
            name="dit", patch=4, width=128, depth=6, heads=4, num_classes=10, learn_sigma=False
        ),
        process=dict(name="flow"),
        precond=dict(name="velocity", time_scale=1000.0),
        objective=dict(name="flow"),
        times=dict(name="logit_normal"),
        image=(28, 28, 1),
        sampler=dict(
            solver=dict(name="heun"),
            grid=dict(name="uniform"),
            guidance=dict(name="cfg", weight=2.0),
            steps=25,
        ),
    )
    c.data.main = dict(source=dict(name="fashion_mnist"), batch=64)
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule=dict(name="cosine", warmup=12_800),
        clip=1.0,
    )
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.train.images = 64 * 4_700  # five epochs
    c.log.every_images = 10_000
    c.checkpoint.every_images = 75_000
    c.samples.every_images = 75_000
    c.heldout.every_images = 75_000
    return c
