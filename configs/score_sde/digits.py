"""The three SDEs of Score SDE on scikit-learn's 8 x 8 digits: minutes on two CPU cores.

    genjax train --config configs/score_sde/digits.py:subvp --workdir runs/digits-subvp
    genjax eval --workdir runs/digits-subvp --reference digits:test --metrics bpd

`ve` is a small NCSN++ with reverse diffusion and Langevin steps, `vp` and `subvp` a small DDPM++ by
the probability flow. sigma_max of `ve` is the largest distance between two digits.
"""

from configs.score_sde import recipe


def get_config(arg: str = "vp"):
    if arg not in ("ve", "vp", "subvp"):
        raise ValueError(f"{arg!r} is no SDE; choose ve, vp or subvp")
    is_ve = arg == "ve"
    c = recipe.get_base(128, 2_000 if is_ve else 1_500, ema=0.999)
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.optimizer.model.update(learning_rate=1e-3, schedule=dict(name="constant", warmup=12_800))
    model = dict(
        name="unet",
        variant="ncsnpp" if is_ve else "ddpmpp",
        channels=16,
        channel_mult=(1, 2),
        blocks=1,
        attention=(4,),
        dropout=0.0,
        center=is_ve,
    )
    task = dict(name="diffusion", model=model, image=(8, 8, 1), levels=17)
    if is_ve:
        c.task = recipe.ve(task, sigma_max=4.8, snr=0.16, steps=200)
    else:
        # Seventeen levels are coarse: a model of the bare levels knows nothing of noise between.
        task["dequantise"] = True
        c.task = (recipe.vp if arg == "vp" else recipe.subvp)(task) | dict(sampler=recipe.ode())
    c.data.main = dict(source=dict(name="digits"), batch=128, fields=("image",))
    c.checkpoint.every_images = 128 * 1_000
    c.checkpoint.keep_every_images = 0
    c.samples.every_images = 128 * 1_000
    c.heldout = dict(every_images=128 * 1_000, num=256, batch=128)
    return c
