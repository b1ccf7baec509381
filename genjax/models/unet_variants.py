"""The published sizes of U-Nets, as fields of `models.unet.UNet`.

Dropout, labels and `center` belong to a run, not to a size: configs set them. Continuous and
discrete networks differ in the embedding of the time alone.
"""

from typing import Any

_FIR = (1, 3, 3, 1)
_FOURIER = {"embedding": "fourier", "noise_mult": 2}
_NCSNPP = {"resample_filter": _FIR, "progressive_input": "residual"}
_PYRAMIDS = {
    **_FOURIER,
    "resample_filter": _FIR,
    "progressive_input": "skip",
    "progressive_output": "skip",
}

VARIANTS: dict[str, dict[str, Any]] = {
    # Score SDE, CIFAR-10 (and CelebA 64 x 64): VP and sub-VP, discrete and continuous.
    "ddpmpp": {},
    "ddpmpp-deep": {"blocks": 8},
    # VE, continuous; and with positional embedding: VE discrete, VP and sub-VP.
    "ncsnpp": {**_NCSNPP, **_FOURIER},
    "ncsnpp-deep": {**_NCSNPP, **_FOURIER, "blocks": 8},
    "ncsnpp-discrete": {**_NCSNPP},
    "ncsnpp-deep-discrete": {**_NCSNPP, "blocks": 8},
    "ncsnpp-256": {**_PYRAMIDS, "channel_mult": (1, 1, 2, 2, 2, 2, 2), "blocks": 2},
    "ncsnpp-1024": {
        **_PYRAMIDS,
        "channels": 16,
        "channel_mult": (1, 2, 4, 8, 16, 32, 32, 32),
        "blocks": 1,
    },
    "ddpm": {"block": "ddpm", "blocks": 2, "skip_rescale": False, "group_channels": 1},
    # EDM: configs A and B at 32 x 32 are Song's own; at 64 x 64 they have a level more.
    "ddpmpp-64": {"channel_mult": (1, 1, 2, 2, 2)},
    "ncsnpp-64": {**_NCSNPP, **_FOURIER, "channel_mult": (1, 1, 2, 2, 2)},
    "edm-ddpmpp": {"channel_mult": (2, 2, 2), "augment": 9},
    "edm-ncsnpp": {**_NCSNPP, **_FOURIER, "channel_mult": (2, 2, 2), "augment": 9},
    "edm-ddpmpp-64": {"augment": 9},
    "edm-ncsnpp-64": {**_NCSNPP, **_FOURIER, "augment": 9},
    # ADM as EDM has it, ImageNet 64 x 64.
    "adm-64": {
        "block": "adm",
        "channels": 192,
        "channel_mult": (1, 2, 3, 4),
        "blocks": 3,
        "attention": (32, 16, 8),
        "decoder_attention": "all",
        "head_channels": 64,
        "skip_rescale": False,
        "embedding": "cos_sin",
        "init_scale": 0.0,
        "num_classes": 1000,
    },
}
