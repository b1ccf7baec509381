"""Window and cutoff of Time-Shift (arXiv 2305.15583), on a grid of values, for one step count.

    genjax search --config configs/search/time_shift.py:10 --workdir runs/search-shift
                  --config.model=runs/ddpm --config.reference=tfds:cifar10
                  --config.extractor=classifier:runs/classifier

The argument is the number of solver steps: a wrong cutoff is worse than none, and no pair serves
all step counts. The model's process must be a table of betas.
"""


def get_config(arg: str = "10"):
    shift = {"name": "time_shift", "window": 0, "cutoff": 0.0, "widest": 80}
    return dict(
        model="runs/ddpm",
        reference="tfds:cifar10",
        extractor="classifier:runs/classifier",
        sampler={"steps": int(arg), "shift": shift},
        space=dict(
            name="product",
            values={
                "shift.window": (0, 10, 20, 40, 80),
                "shift.cutoff": (200.0, 300.0, 400.0, 500.0, 600.0),
            },
        ),
        method=dict(name="exhaustive"),
        num=1000,
    )
