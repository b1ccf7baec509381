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
            name="dit", patch=4, width=192, depth=6, heads=6, num_classes=10, learn_sigma=False
        ),
        process=dict(name="flow"),
        precond=dict(name="velocity", time_scale=1000.0),
        objective=dict(name="flow"),
        times=dict(name="logit_normal"),
        image=(28, 28, 1),
        sampler=dict(
            solver=dict(name="heun"),
            grid=dict(name="uniform"),
            guidance=dict(name="cfg", weight=1.5),
            steps=25,
        ),
    )
    c.data.main = dict(source=dict(name="fashion_mnist"), batch=128)
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=6e-4,
        weight_decay=0.0,
        schedule=dict(name="cosine", warmup=25_600),
        clip=1.0,
    )
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.train.images = 1_000_000
    c.log.every_images = 10_000
    c.checkpoint.every_images = 200_000
    c.samples.every_images = 200_000
    c.heldout.every_images = 200_000
    return c
