"""Networks, one family a file; `MODELS` names those that a config can choose."""

from genjax.core.registry import Registry
from genjax.models import classifier, dit, edm2, unet, uvit, vae, wide_resnet

MODELS = Registry(
    "network",
    {
        "dit": dit.DiT,
        "edm2": edm2.EDM2UNet,
        "edm2_denoiser": edm2.EDM2Denoiser,
        "classifier": classifier.ConvClassifier,
        "unet": unet.UNet,
        "uvit": uvit.UViT,
        "kl_vae": vae.KLVAE,
        "wide_resnet": wide_resnet.WideResNet,
    },
    {
        "dit": dit.VARIANTS,
        "edm2": edm2.VARIANTS,
        "edm2_denoiser": edm2.VARIANTS,
        "unet": unet.VARIANTS,
        "uvit": uvit.VARIANTS,
        "kl_vae": vae.VARIANTS,
        "wide_resnet": wide_resnet.VARIANTS,
    },
)
