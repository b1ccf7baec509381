"""Which K of many times to evaluate (AutoDiffusion, arXiv 2309.10438), by evolution.

    genjax search --config configs/search/steps.py:4 --workdir runs/search-steps
                  --config.model=runs/fashion --config.extractor=classifier:runs/fashion-classifier

The argument is K. The settings are the paper's: 50 candidates, 10 elites, 25 mutants, 15 crossings,
10 generations, mutation 0.25. The times are those of the model's own grid unless
`space.grid` says otherwise; `space.prune=0.1` and `space.most` search blocks to leave out as well.
"""


def get_config(arg: str = "4"):
    steps = int(arg)
    return dict(
        model="runs/fashion",
        reference="fashion_mnist",
        extractor="classifier:runs/fashion-classifier",
        space=dict(name="steps", steps=steps, choices=1000, grid=dict(name="uniform")),
        method=dict(name="evolution"),
        num=1000,
        baselines=dict(uniform={"grid.name": "uniform", "steps": steps}),
    )
