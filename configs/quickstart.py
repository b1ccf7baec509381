"""A flow-matching DiT learns scikit-learn's 8x8 digits: minutes on two CPU cores.

    genjax train --config configs/quickstart.py --workdir runs/quickstart
    genjax sample --workdir runs/quickstart --num 1000 --out runs/quickstart/samples.npz

`bash launch/quickstart.sh` runs both, and measures the samples.
"""

from configs import base


def get_config():
    c = base.get_base()
    c.task = dict(
        name="diffusion",
        model=dict(
            name="dit", patch=2, width=128, depth=4, heads=4, num_classes=10, learn_sigma=False
        ),
        process=dict(name="flow"),
        precond=dict(name="velocity", time_scale=1000.0),
        objective=dict(name="flow"),
        times=dict(name="uniform"),
        image=(8, 8, 1),
        levels=17,
        sampler=dict(
            solver=dict(name="euler"),
            grid=dict(name="uniform"),
            guidance=dict(name="cfg", weight=1.5),
            steps=50,
        ),
    )
    c.data.main = dict(source=dict(name="digits"), batch=128)
    c.optimizer.model = dict(name="adamw", learning_rate=1e-3, weight_decay=0.0)
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.train.images = 128 * 1000
    return c
