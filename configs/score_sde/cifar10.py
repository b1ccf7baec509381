"""Score SDE on CIFAR-10: every row of the paper's tables 1 to 3.

    genjax train --config configs/score_sde/cifar10.py:ncsnpp-deep --workdir gs://BUCKET/ncsnpp
    genjax eval --workdir gs://BUCKET/ncsnpp --reference tfds:cifar10:train --metrics bpd

`ddpm`, `ddpmpp` (VP) and `ddpm-ve`, `ncsnpp` (VE) are the discrete models, `ncsnpp-cont` and
`ncsnpp-deep` continuous VE.
"""

from configs.score_sde import recipe

_TABLE3 = "arXiv 2011.13456, table 3"
# Row -> network variant, process, FID (None: only likelihood was published), source.
ROWS = {
    "ddpm": ("ddpm", "vp-discrete", 3.24, "arXiv 2011.13456, table 1, VP ancestral P1000"),
    "ddpm-ve": ("ddpm", "ve-discrete", 3.60, "arXiv 2011.13456, table 1, VE PC1000"),
    "ddpm-vp": ("ddpm", "vp", None, "arXiv 2011.13456, table 2"),
    "ddpm-subvp": ("ddpm", "subvp", None, "arXiv 2011.13456, table 2"),
    "ddpmpp": ("ddpmpp", "vp-discrete", 2.78, _TABLE3),
    "ddpmpp-vp": ("ddpmpp", "vp", 2.55, _TABLE3),
    "ddpmpp-subvp": ("ddpmpp", "subvp", 2.61, _TABLE3),
    "ddpmpp-deep-vp": ("ddpmpp-deep", "vp", 2.41, _TABLE3),
    "ddpmpp-deep-subvp": ("ddpmpp-deep", "subvp", 2.41, _TABLE3),
    "ncsnpp": ("ncsnpp-discrete", "ve-discrete", 2.45, _TABLE3),
    "ncsnpp-cont": ("ncsnpp", "ve", 2.38, _TABLE3),
    "ncsnpp-deep": ("ncsnpp-deep", "ve", 2.20, _TABLE3),
}
# Bits/dim of table 2, by the same likelihood computation; the best FID is ROWS'.
BITS = {
    "ddpm-vp": 3.21, "ddpm-subvp": 3.05,
    "ddpmpp-vp": 3.16, "ddpmpp-subvp": 3.02,
    "ddpmpp-deep-vp": 3.13, "ddpmpp-deep-subvp": 2.99,
}  # fmt: skip


def get_config(arg: str = "ncsnpp-deep"):
    if arg not in ROWS:
        raise ValueError(f"{arg!r} is no row; choose one of {', '.join(ROWS)}")
    variant, process, fid, source = ROWS[arg]
    is_ve, discrete = process.startswith("ve"), process.endswith("discrete")
    steps = 950_000 if "deep" in arg else 1_300_000
    c = recipe.get_base(128, steps, ema=0.999 if is_ve else 0.9999)
    model = dict(name="unet", variant=variant, dropout=0.1, center=is_ve)
    task = dict(name="diffusion", model=model, image=(32, 32, 3))
    predictor = "ancestral" if discrete else "euler_maruyama"
    if is_ve:
        c.task = recipe.ve(task, sigma_max=50.0, snr=0.16, discrete=discrete)
    elif process == "subvp":
        c.task = recipe.subvp(task)
    else:
        c.task = recipe.vp(task, predictor=predictor, discrete=discrete)
    c.data.main = dict(source=dict(name="tfds", dataset="cifar10", label=""), batch=128, flip=True)
    c.target = dict(dataset="cifar10 32x32, train", source=source, guidance=1.0)
    if fid is None:
        c.task["sampler"] = recipe.ode()
        c.target.update(
            metric="bpd",
            value=BITS[arg],
            protocol="test set, uniform dequantisation, RK45 at 1e-5, Hutchinson, last checkpoint",
        )
    else:
        c.target.update(
            metric="fid50k",
            value=fid,
            nfe=2000 if is_ve else 1000,
            protocol=(
                f"{'reverse diffusion + Langevin, snr 0.16' if is_ve else predictor}, 1000 steps, "
                "EMA, TF-GAN's Inception, best checkpoint"
            ),
        )
    return c
