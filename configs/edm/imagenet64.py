"""EDM's ADM on ImageNet 64 x 64, class-conditional.

    genjax train --config configs/edm/imagenet64.py --workdir gs://BUCKET/edm-imagenet64

Deterministic sampling: `--config.task.sampler.solver.S_churn=0 --config.task.sampler.steps=40`
(FID 2.22, NFE 79). The paper trains with float16 networks and a loss scale; bfloat16 needs none.
"""

from configs.edm import recipe


def get_config():
    c = recipe.get_base(batch=4096, learning_rate=1e-4, half_life=5e7, images=2_500_000_000)
    model = dict(name="unet", variant="adm-64", dropout=0.1, num_classes=1000, dtype="bfloat16")
    task = dict(name="diffusion", model=model, image=(64, 64, 3), condition_dropout=0.0)
    churn = dict(S_churn=40.0, S_min=0.05, S_max=50.0, S_noise=1.003)
    c.task = recipe.edm(task) | dict(sampler=recipe.heun(256, **churn))
    c.data.main = dict(source=dict(name="tfds", dataset="imagenet2012"), batch=4096, image_size=64)
    c.target = dict(
        dataset="imagenet2012 64x64",
        metric="fid50k",
        value=1.36,
        nfe=511,
        guidance=1.0,
        protocol="Heun 256 steps with churn 40, 0.05, 50, 1.003, EMA, EDM's reference statistics",
        source="arXiv 2206.00364, section 5",
    )
    return c
