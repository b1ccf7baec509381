"""Parti on codes and captions of `genjax prepare tokens`, at its published size and length.

    genjax train --config configs/parti/parti.py:350M --workdir gs://BUCKET/parti-350M
    genjax train --config configs/parti/parti.py:3B --config.mesh.tensor=4 ...

SIZE-high takes ten times the printed rate, 4.5e-4 instead of 4.5e-5: every relative of the recipe
has it, so the printed one may be a misprint. The data of the paper are not public: FIDs are for
reference, what can be compared is the order of the sizes.
"""

from configs.parti import recipe

# Zero-shot MS-COCO FID with 16 candidates, reranked (table 5).
FID = {"350M": 14.10, "750M": 10.71, "3B": 8.10, "20B": 7.23}


def get_config(arg: str = "350M"):
    size, _, high = arg.partition("-")
    size = size.upper()
    if size not in FID or high not in ("", "high"):
        raise ValueError(f"{arg!r} is none of {', '.join(FID)}, with or without -high")
    rate = 4.5e-4 if high else 4.5e-5
    c = recipe.get_base(size, batch=8192, rate=rate, hold=85_000, final=0.025)
    c.task.sampler = dict(guidance=dict(weight=1.2))
    source = dict(name="array_record", path="data/image-text256-tokens")
    text = dict(name="sentencepiece", model="data/image-text256-captions")
    c.data.main = dict(source=source, batch=8192, text=text)
    if not high:
        c.target = dict(
            dataset="MS-COCO 2014 validation, 256 x 256, zero-shot",
            metric="FID",
            value=FID[size],
            guidance=1.2,
            nfe=1024,
            protocol="30,000 images, best of 16 by CoCa, trained on data that are not public",
            source="arXiv 2206.10789, table 5",
        )
    return c
