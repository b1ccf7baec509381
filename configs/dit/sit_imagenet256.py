"""SiT on ImageNet 256 x 256, the linear path and velocity: `configs/dit/sit_imagenet256.py:XL/2`.

The network and the recipe are DiT's. XL/2 is trained to the final 7M steps (FID-50K 2.06, SDE,
guidance 1.5), S/2, B/2 and L/2 to 400k steps without guidance. Users of the released sampler
report 2.34 to 2.45 for 2.06: see docs/dit.md.
"""

from configs.dit import imagenet


def get_config(arg: str = "XL/2"):
    final = arg == "XL/2"
    c = imagenet.flow(imagenet.get_base(arg, 256), guidance=1.5 if final else 1.0)
    c.task.model.learn_sigma = False
    c.train.images = 256 * (7_000_000 if final else 400_000)
    value = 2.06 if final else imagenet.SIT_400K.get(arg)
    if value is not None:
        c.target = dict(
            dataset="imagenet2012 256x256",
            metric="fid50k",
            value=value,
            nfe=250,
            guidance=1.5 if final else 1.0,
            protocol="SDE, Euler-Maruyama with a last step of 0.04, EMA 0.9999, ADM suite",
            source="arXiv 2401.08740v2",
        )
    return c
