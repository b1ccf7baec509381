"""EDM on CIFAR-10: the ladder of table 2, `LETTER-NET-LABELS`, such as `F-vp-cond`.

    genjax train --config configs/edm/cifar10.py:F-vp-cond --workdir gs://BUCKET/edm
    genjax eval --workdir gs://BUCKET/edm --reference tfds:cifar10:train --metrics fid --num 50000

`vp` is DDPM++ and `ve` NCSN++, in the paper's words. A: Score SDE's training; B: its hyper-
parameters tuned; C: more capacity; D: EDM's preconditioning; E: its noise levels and weight; F:
augmentation. Every row is sampled by Heun in 18 steps (NFE 35). The paper measures the
unconditional A with the released networks.
"""

from configs.edm import recipe

# Letter -> FID of (VP, VE), table 2.
COND = {
    "A": (2.48, 3.11), "B": (2.18, 2.48), "C": (2.08, 2.52),
    "D": (2.09, 2.64), "E": (1.88, 1.86), "F": (1.79, 1.79),
}  # fmt: skip
UNCOND = {
    "A": (3.01, 3.77), "B": (2.51, 2.94), "C": (2.31, 2.83),
    "D": (2.29, 3.10), "E": (2.05, 1.99), "F": (1.97, 1.98),
}  # fmt: skip
ROWS = [
    f"{a}-{net}-{labels}" for a in COND for net in ("vp", "ve") for labels in ("cond", "uncond")
]


def get_config(arg: str = "F-vp-cond"):
    if arg not in ROWS:
        raise ValueError(f"{arg!r} is no row; choose one of {', '.join(ROWS)}")
    letter, net, labels = arg.split("-")
    is_ve, conditional = net == "ve", labels == "cond"
    c = recipe.get_base(batch=512, learning_rate=1e-3, half_life=5e5, images=200_000_000)
    variant = "ncsnpp" if is_ve else "ddpmpp"
    model = dict(
        name="unet",
        variant=variant if letter < "C" else f"edm-{variant}",
        augment=9 if letter == "F" else 0,
        dropout=0.1 if letter == "A" else 0.13,
        num_classes=10 if conditional else 0,
    )
    task = dict(name="diffusion", model=model, image=(32, 32, 3), condition_dropout=0.0)
    if letter == "F":
        task["augment"] = dict(name="edm", p=0.12)
    c.task = recipe.edm(task) | dict(sampler=recipe.heun(18))
    c.data.main = dict(
        source=dict(name="tfds", dataset="cifar10"),
        batch=128 if letter == "A" else 512,
        flip=letter != "F",
    )
    if letter < "E":
        _before_e(c, is_ve, preconditioned=letter == "D")
    if letter == "A":
        c.optimizer.model = dict(
            name="adam",
            learning_rate=2e-4,
            clip=1.0,
            schedule=dict(name="constant", warmup=640_000),
        )
        c.ema = dict(main=dict(name="constant", decay=0.999 if is_ve else 0.9999))
    c.target = dict(
        dataset="cifar10 32x32, train",
        metric="fid50k",
        value=(COND if conditional else UNCOND)[letter][is_ve],
        nfe=35,
        guidance=1.0,
        protocol="Heun 18 steps, rho 7, EMA, smallest of three, best snapshot",
        source="arXiv 2206.00364, table 2",
    )
    return c


def _before_e(c, is_ve: bool, *, preconditioned: bool) -> None:
    """Sets Score SDE's noise levels and weight, in [-1, 1]; its preconditioning up to C."""
    if is_ve:
        c.task.process = dict(name="ve", sigma_min=0.02, sigma_max=100.0)
        c.task.times = dict(name="uniform", lo=0.0)
        row = dict(name="eps", negative=True, time="log_half_sigma")
        bounds = dict(sigma_min=0.02, sigma_max=80.0)  # what the network supports
        c.task.sampler.grid = dict(name="karras", **bounds)
    else:
        c.task.process = dict(name="vp")
        c.task.times = dict(name="uniform")
        row = dict(name="eps", time_scale=999.0)
        c.task.sampler.grid = dict(name="karras", sigma_min=0.002, sigma_max=80.0)
    if not preconditioned:
        c.task.precond = row
    c.task.objective = dict(name="denoising", weighting=dict(name="snr"), reduction="sum")
