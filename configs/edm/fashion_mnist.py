"""EDM's DDPM++ in small on Fashion-MNIST, class-conditional: under an hour on two CPU cores.

    bash launch/get_fashion_mnist.sh
    genjax train --config configs/edm/fashion_mnist.py --workdir runs/fashion-edm
    genjax sample --workdir runs/fashion-edm --num 100 --out runs/fashion-edm/samples.npz

28 x 28, 14 x 14 and 7 x 7 pixels. The grey values are shifted and scaled to mean 0 and standard
deviation 0.5, which is what EDM's preconditioning assumes.
"""

from configs.edm import recipe


def get_config():
    c = recipe.get_base(batch=64, learning_rate=1e-3, half_life=2e4, images=64 * 2_500)
    c.optimizer.model.schedule.warmup = 12_800
    model = dict(
        name="unet",
        variant="edm-ddpmpp",
        channels=32,
        channel_mult=(1, 2, 2),
        blocks=1,
        attention=(7,),
        dropout=0.0,
        num_classes=10,
        augment=0,
    )
    # Pixels 0..1 have mean 0.286 and deviation 0.353: (v - 0.286) 0.5/0.353.
    task = dict(name="diffusion", model=model, image=(28, 28, 1), data_range=(-0.405, 1.011))
    c.task = recipe.edm(task) | dict(sampler=recipe.heun(18))
    c.data.main = dict(source=dict(name="fashion_mnist"), batch=64)
    c.log.every_images = 6_400
    c.checkpoint.every_images = 64_000
    c.samples.every_images = 64_000
    c.heldout = dict(every_images=64_000, num=1_024, batch=128)
    return c
