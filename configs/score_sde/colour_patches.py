"""VE on 16 x 16 colour patches of photographs: what colourisation is shown on, minutes on a CPU.

    python benchmarks/score_sde_colour.py

cuts the patches, trains this, takes the colours of held-out ones away and gives them back.
`--config.data.main.source.path=DIR` is the folder of patches.
"""

from configs.score_sde import recipe


def get_config():
    c = recipe.get_base(64, 2_000, ema=0.999)
    c.ema = dict(main=dict(name="warmup", decay=0.999))
    c.optimizer.model.update(learning_rate=1e-3, schedule=dict(name="constant", warmup=6_400))
    model = dict(
        name="unet",
        variant="ncsnpp",
        channels=24,
        channel_mult=(1, 2),
        blocks=1,
        attention=(8,),
        dropout=0.0,
        center=True,
    )
    task = dict(name="diffusion", model=model, image=(16, 16, 3))
    c.task = recipe.ve(task, sigma_max=18.0, snr=0.16, steps=200)
    source = dict(name="image_folder", path="runs/colour_patches/train")
    c.data.main = dict(source=source, batch=64, flip=True, fields=("image",))
    c.log.every_images = 64 * 250
    c.checkpoint.every_images = 64 * 1_000
    c.checkpoint.keep_every_images = 0
    c.samples.every_images = 64 * 1_000
    return c
