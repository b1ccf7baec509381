"""The factor rho of a U-Net's long skips (Skip-Tuning, arXiv 2402.15170), on a grid of values.

    genjax search --config configs/search/skip_scale.py:5 --workdir runs/search-skips
                  --config.model=runs/fashion-edm
                  --config.extractor=classifier:runs/fashion-classifier

The argument is the number of solver steps. `--config.space.values` holds other values to try: any
keys of the sampler, such as inputs.top (a ramp over the layers) or inputs.over_time.
"""


def get_config(arg: str = "5"):
    rho = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05)
    return dict(
        model="runs/fashion-edm",
        reference="fashion_mnist",
        extractor="classifier:runs/fashion-classifier",
        sampler={
            "steps": int(arg),
            "inputs": {"name": "skip_tuning", "bottom": 1.0, "top": 1.0, "inclusive": True},
        },
        # bottom alone is the paper's interpolation to 1; with top equal it is a constant.
        space=dict(name="product", values={"inputs.bottom": rho, "inputs.top": (1.0,)}),
        method=dict(name="exhaustive"),
        num=1000,
    )
