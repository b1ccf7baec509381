"""A classifier of Fashion-MNIST: the feature network that measures its samples.

    genjax train --config configs/classifier/fashion_mnist.py --workdir runs/classifier-fashion

A few minutes on two CPU cores; over 90 % of the test set.
"""

from configs import base


def get_config():
    c = base.get_base()
    c.task = dict(
        name="classifier",
        model=dict(name="classifier", num_classes=10, width=24, stages=3, stem=2),
        image=(28, 28, 1),
    )
    c.data.main = dict(source=dict(name="fashion_mnist"), batch=128, flip=True)
    c.train.images = 60_000 * 6
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=3e-3,
        weight_decay=1e-2,
        schedule=dict(name="cosine", warmup=128 * 100),
    )
    c.heldout.every_images, c.heldout.num, c.heldout.batch = 60_000, 10_000, 200
    return c
