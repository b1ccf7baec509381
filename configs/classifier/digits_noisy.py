"""A classifier of noisy 8x8 digits, whose gradient guides a diffusion model to a class.

    genjax train --config configs/classifier/digits_noisy.py --workdir runs/classifier-digits-noisy
    genjax edit --workdir RUN --operation class --classifier runs/classifier-digits-noisy
                --labels 0,1,2 --num 30 --out class.npz

A few minutes on two CPU cores. ln(sigma/alpha) is uniform over the noise of every process, so that
VE, VP, sub-VP, EDM and flow models can all be guided by it. To measure what was guided, train
another one: configs/classifier/digits.py.
"""

from configs import base


def get_config():
    c = base.get_base()
    c.task = dict(
        name="classifier",
        model=dict(name="wide_resnet", variant="10-2", num_classes=10),
        image=(8, 8, 1),
        levels=17,
        process=dict(name="edm"),
        times=dict(name="log_lam", unbiased=False),
    )
    c.data.main = dict(source=dict(name="digits"), batch=128)
    c.train.images = 128 * 1500
    c.optimizer.model = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=1e-2,
        schedule=dict(name="cosine", warmup=128 * 50),
    )
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.heldout.every_images, c.heldout.num, c.heldout.batch = 128 * 500, 360, 120
    return c
