"""Which K of many times to evaluate (AutoDiffusion, arXiv 2309.10438), by evolution.

    genjax search --config configs/search/steps.py:4 --workdir runs/search-steps
                  --config.model=runs/fashion --config.extractor=classifier:runs/fashion-classifier

The argument is K; `K-karras` takes the legal times from Karras' levels, for models whose time is
sigma (EDM). The settings are the paper's: 50 candidates, 10 elites, 25 mutants, 15 crossings, 10
generations, mutation 0.25. `space.prune=0.1` and `space.most` search blocks to leave out as well.
The baselines are what a person would try: the grids of the field with their knobs turned.
"""


def in_time(steps: int):
    """Returns grids of flows and of variance-preserving processes, whose time ends at 1."""
    shifts = {f"shift {s:g}": {"name": "uniform", "shift": s} for s in (0.5, 1.5, 2.0, 3.0)}
    powers = {f"power {p:g}": {"name": "power", "power": p} for p in (1.5, 2.0)}
    named = {"uniform": {"name": "uniform"}, **shifts, **powers}
    named |= {name: {"name": name} for name in ("vp", "iddpm")}
    for start in (0.95, 0.9):  # below pure noise, as few steps like it
        for shift in (1.0, 2.0):
            name = f"shift {shift:g} from {start:g}" if shift != 1 else f"uniform from {start:g}"
            named[name] = {"name": "uniform", "start": start, "shift": shift}
    return {name: {"grid": grid, "steps": steps} for name, grid in named.items()}


def in_sigma(steps: int):
    """Returns grids of noise levels between 80, or lower, and the last one before 0."""
    named = {"uniform": {"name": "uniform"}}
    for least in (0.002, 0.1, 0.3):
        for rho in (5.0, 7.0):
            grid = {"name": "karras", "rho": rho, "sigma_min": least}
            named[f"karras {rho:g} to {least:g}"] = grid
    named |= {f"logsnr to {end:g}": {"name": "logsnr", "end": end} for end in (0.1, 0.3)}
    for start in (20.0, 7.0):
        named[f"logsnr from {start:g} to 0.3"] = {"name": "logsnr", "start": start, "end": 0.3}
    return {name: {"grid": grid, "steps": steps} for name, grid in named.items()}


def get_config(arg: str = "4"):
    count, _, kind = arg.partition("-")
    if kind not in ("", "karras"):
        raise ValueError(f"{arg}: write the number of steps, or that number and -karras")
    steps = int(count)
    return dict(
        model="runs/fashion",
        reference="fashion_mnist",
        extractor="classifier:runs/fashion-classifier",
        space=dict(name="steps", steps=steps, choices=1000, grid=dict(name=kind or "uniform")),
        method=dict(name="evolution"),
        num=1000,
        baselines=in_sigma(steps) if kind else in_time(steps),
    )
