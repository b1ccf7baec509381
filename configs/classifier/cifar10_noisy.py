"""Score SDE's classifier of noisy CIFAR-10 images, WRN-28-10 (arXiv 2011.13456, appendix I).

    genjax train --config configs/classifier/cifar10_noisy.py --workdir runs/classifier-cifar10

Its times are those of the VE models that it guides. Optimiser and length were not published; these
are those of the wide residual network's paper (arXiv 1605.07146), with AdamW for SGD.
"""

from configs import base


def get_config():
    c = base.get_base()
    c.task = dict(
        name="classifier",
        model=dict(name="wide_resnet", variant="28-10", num_classes=10),
        image=(32, 32, 3),
        process=dict(name="ve", sigma_min=0.01, sigma_max=50.0),
        times=dict(name="uniform"),
        data_range=(0.0, 1.0),
    )
    c.data.main = dict(source=dict(name="tfds", dataset="cifar10"), batch=128, flip=True)
    c.train.images = 50_000 * 200
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=5e-4,
        weight_decay=1e-2,
        schedule=dict(name="cosine", warmup=50_000),
    )
    c.ema = dict(main=dict(name="warmup", decay=0.9999))
    c.heldout.every_images, c.heldout.num, c.heldout.batch = 500_000, 10_000, 200
    return c
