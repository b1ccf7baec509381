"""What the ImageNet configs of DiT and SiT share: latents, network, recipe (Peebles and Xie, 5).

Latents are made once (the encoder costs more than a DiT-XL/2 step):

    genjax prepare latents --source tfds:imagenet2012:train --size 256 --flip \\
        --vae sd-vae-ft-ema/diffusion_pytorch_model.safetensors --out data/imagenet256-latents
"""

from configs import base

# FID-50K without guidance after 400k steps of batch 256, 250 DDPM steps, ft-MSE decoder.
DIT_400K = {
    "S/8": 153.60, "S/4": 100.41, "S/2": 68.40,
    "B/8": 122.74, "B/4": 68.38, "B/2": 43.47,
    "L/8": 118.87, "L/4": 45.64, "L/2": 23.33,
    "XL/8": 106.41, "XL/4": 43.01, "XL/2": 19.47,
}  # fmt: skip
# The same for SiT (patch 2): Euler-Maruyama on the SDE.
SIT_400K = {"S/2": 57.64, "B/2": 33.02, "L/2": 18.79, "XL/2": 17.19}


def get_base(variant: str, size: int):
    """Returns the part of the config that does not depend on the objective."""
    if variant not in DIT_400K:
        raise ValueError(f"{variant!r} is no size; choose one of {', '.join(DIT_400K)}")
    c = base.get_base()
    c.task = dict(
        name="diffusion",
        model=dict(
            name="dit", variant=variant, num_classes=1000, remat="weights", dtype="bfloat16"
        ),
        codec=dict(name="kl_vae", path="sd-vae-ft-ema/diffusion_pytorch_model.safetensors"),
        image=(size, size, 3),
        latents=True,
        condition_dropout=0.1,
    )
    c.data.main = dict(
        source=dict(name="array_record", path=f"data/imagenet{size}-latents"), batch=256, flip=True
    )
    c.optimizer.model = dict(name="adamw", learning_rate=1e-4, weight_decay=0.0)
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.ema = dict(main=dict(name="constant", decay=0.9999))
    c.checkpoint.every_images = 256 * 10_000
    c.checkpoint.keep_every_images = 256 * 100_000
    c.log.every_images = 256 * 100
    c.samples.every_images = 256 * 10_000
    return c


def ddpm(c, *, guidance: float):
    """Sets DiT's process, loss and published sampler: 250 re-spaced DDPM steps."""
    c.task.process = dict(name="table", betas="linear", n=1000, lo=1e-4, hi=2e-2)
    c.task.precond = dict(name="eps")
    c.task.objective = dict(name="hybrid")
    c.task.times = dict(name="index")
    c.task.sampler = dict(
        solver=dict(name="ddpm", variance="learned"),
        grid=dict(name="respaced"),
        guidance=published_guidance(guidance),
        steps=250,
    )
    return c


def flow(c, *, guidance: float):
    """Sets SiT's linear path, velocity loss and SDE sampler (w = sigma, last step 0.04).

    The published 2.06 used w^{KL,eta}, for which no released sampler exists.
    """
    c.task.process = dict(name="flow")
    c.task.precond = dict(name="velocity", time_scale=1000.0)
    c.task.objective = dict(name="flow")
    c.task.times = dict(name="uniform")
    c.task.sampler = dict(
        solver=dict(name="sit_sde", w="sigma", scale=1.0),
        grid=dict(name="uniform", last=0.04),
        guidance=published_guidance(guidance),
        steps=250,
    )
    return c


def published_guidance(weight: float) -> dict:
    """Returns guidance as published: on latent channels 0 to 2 only (all: channels=None)."""
    return dict(name="none") if weight == 1 else dict(name="cfg", weight=weight, channels=3)
