"""EDM2 on ImageNet 64 x 64, in pixels.

    genjax train --config configs/edm2/imagenet64.py:S --workdir gs://BUCKET/edm2-64-s
    genjax eval --workdir gs://BUCKET/edm2-64-s --ema posthoc:0.075 --reference NAME --metrics fid

The argument is XS, S (without one), M, L or XL.
"""

from configs.edm2 import recipe

LENGTHS = {"XS": 1024, "S": 1024, "M": 2048, "L": 1024, "XL": 640}
# FID without guidance, and the width of the EMA that gave it.
FID = {"S": (1.58, 0.075), "M": (1.43, 0.060), "L": (1.33, 0.040), "XL": (1.33, 0.040)}


def get_config(variant="S"):
    c = recipe.get_base(variant, LENGTHS, t_ref=35_000, mean=-0.8, std=1.6)
    c.task.update(dict(image=(64, 64, 3)))
    c.data.main.update(dict(source=dict(name="tfds", dataset="imagenet2012"), image_size=64))
    c.target = recipe.target("imagenet2012 64x64", *FID.get(variant, (None, None)))
    return c
