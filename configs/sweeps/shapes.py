"""How a pixel DiT scales on endless data: five sizes x four budgets on `shapes`, two CPU cores.

    genjax sweep --config configs/sweeps/shapes.py --workdir runs/sweep
    genjax report runs/sweep --out runs/sweep.html

The argument is a factor of all budgets: `configs/sweeps/shapes.py:0.1` is a tenth of the work.
32 x 32 pixels, patch 4: 64 tokens. Pictures are drawn when they are asked for, a billion of them:
no run sees one twice, and of the 4,096 held-out ones (drawn by the same law) one in a thousand at
most is among those trained on. Depth grows with width; the learning rate is that of w64 by muP.
"""

BATCH = 64
# name -> width, depth; heads of 16 channels.
SIZES = {"w32": (32, 3), "w48": (48, 4), "w64": (64, 5), "w96": (96, 6), "w128": (128, 8)}
BUDGETS = (2e12, 5e12, 1.25e13, 3.1e13)


def get_config(arg: str = "1"):
    scale = float(arg)
    return dict(
        base="configs/fashion_mnist/dit.py",
        changes={
            "data.main.source": dict(name="shapes", split="all", size=2**30),
            "data.main.batch": BATCH,
            "task.image": (32, 32, 3),
            "task.model.patch": 4,
            "task.model.num_classes": 0,
            "task.condition_dropout": 0.0,
            "task.sampler.guidance.name": "none",
            "optimizer.model.learning_rate": 2e-3,
            "checkpoint.every_images": 0,
            "samples.every_images": 0,
            "heldout": dict(split="all", num=4096, batch=128),
            "log": dict(every_images=BATCH * 50, tensorboard=False),
        },
        # The rate ends at 0 with the run, so that each is the best of its length.
        shares={"heldout.every_images": 1.0, "optimizer.model.schedule.warmup": 0.05},
        sizes={
            name: {
                "task.model": dict(width=width, depth=depth, heads=width // 16),
            }
            for name, (width, depth) in SIZES.items()
        },
        transfer="w64",
        design=dict(
            name="isoflop",
            budgets=tuple(scale * c for c in BUDGETS),
            least_images=int(6_400 * scale),  # a hundred steps
        ),
    )
