"""VIM, ViT-VQGAN's second stage, on ImageNet's codes with labels: VIM-B or VIM-L.

    genjax train --config configs/parti/vim.py:VIM-L --workdir gs://BUCKET/vim-large

The paper encodes freshly augmented images in every step (task.from_images with task.codec.path).
"""

from configs.parti import recipe

FID = {"VIM-B": 8.81, "VIM-L": 4.17}


def get_config(arg: str = "VIM-L"):
    if arg not in FID:
        raise ValueError(f"{arg!r} is no size; choose VIM-B or VIM-L")
    c = recipe.get_base(arg, batch=1024, rate=4.5e-4, hold=80_000, final=1e-5 / 4.5e-4)
    c.task.codec.model.head = "logit_laplace"
    c.task.objective = dict(condition_dropout=0.0)  # the paper has no guidance
    c.data.main = dict(source=dict(name="array_record", path="data/imagenet256-tokens"), batch=1024)
    c.target = dict(
        dataset="ImageNet 256 x 256, by class",
        metric="FID",
        value=FID[arg],
        guidance=1.0,
        nfe=1024,
        protocol="no rejection, temperature 1, no truncation; the number of images is not stated",
        source="arXiv 2110.04627, table 5",
    )
    return c
