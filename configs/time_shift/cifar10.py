"""Time-Shift on CIFAR-10 with the network of DDPM and DDIM: rows of the paper's table 1.

    genjax train --config configs/time_shift/cifar10.py:ddim-10 --workdir runs/ddpm
    genjax sample --workdir runs/ddpm --num 50000 --out samples.npz
    genjax eval --workdir runs/ddpm --reference tfds:cifar10:train --metrics fid --num 50000

Time-Shift trains nothing: one model serves all rows, which differ in `task.sampler` alone, and the
others can be had with `genjax sample --schedule FILE`. A row's number counts steps as the released
code does, which takes one less and starts a stride lower; its rule is `mode="ts_dpm"`.
"""

from configs.score_sde import recipe

# Row -> solver, published steps, window, cutoff, FID, where window and cutoff are from.
_SWEEP = "read off the paper's sweep: the pair whose bar has the cell's height"
ROWS = {
    "ddim-10": (dict(name="ddim"), 10, 40, 200, 12.21, _SWEEP),
    "ddim-20": (dict(name="ddim"), 20, 40, 300, 8.03, _SWEEP),
    "ddim-50": (dict(name="ddim"), 50, 8, 300, 5.56, _SWEEP),
    "f-pndm-100": (dict(name="pndm", form="f"), 100, 5, 550, 3.86, "the released command"),
}
# FID of the other rows, whose windows and cutoffs were not published: 5, 10, 20, 50, 100 steps.
# `genjax search --config configs/search/time_shift.py:STEPS` finds a pair.
WITHOUT_SETTINGS = {
    "ddim": (35.13, None, None, None, 4.56),
    "ddim-quadratic": (38.09, 11.93, 6.12, 4.16, 3.81),
    "ddpm": (67.06, 33.36, 22.21, 13.64, 9.69),
    "s-pndm": (18.81, 5.14, 4.42, 3.71, 3.60),
    "f-pndm": (31.11, 3.88, 3.60, 3.56, None),
}
# The same models without Time-Shift, of the rows above that have settings.
PLAIN = {"ddim-10": 18.71, "ddim-20": 11.05, "ddim-50": 7.09, "f-pndm-100": 4.03}


def get_config(arg: str = "ddim-10"):
    name = arg.removesuffix("-plain")
    if name not in ROWS:
        rows = ", ".join([*ROWS, *(f"{row}-plain" for row in ROWS)])
        raise ValueError(f"{arg!r} is no row with known settings; choose one of {rows}")
    solver, steps, window, cutoff, fid, known_from = ROWS[name]
    shift = dict(name="time_shift", mode="ts_dpm", window=window, cutoff=cutoff)
    c = recipe.get_base(128, 800_000, ema=0.9999)
    model = dict(name="unet", variant="ddpm", dropout=0.1)
    c.task = recipe.vp(dict(name="diffusion", model=model, image=(32, 32, 3)), discrete=True)
    plain = arg != name
    c.task["sampler"] = dict(
        solver=solver,
        grid=dict(name="ts_dpm"),
        shift=dict(name="none") if plain else shift,
        steps=steps - 1,
    )
    c.data.main = dict(source=dict(name="tfds", dataset="cifar10", label=""), batch=128, flip=True)
    settings = "no Time-Shift" if plain else f"window {window}, cutoff {cutoff} ({known_from})"
    starters = 9 if solver["name"] == "pndm" else 0
    c.target.update(
        dataset="cifar10 32x32, train",
        metric="fid50k",
        value=PLAIN[name] if plain else fid,
        guidance=1.0,
        nfe=steps - 1 + starters,
        protocol=f"{steps} steps as published, {settings}, DDIM's checkpoint, pytorch-fid",
        source="arXiv 2305.15583, table 1",
    )
    return c
