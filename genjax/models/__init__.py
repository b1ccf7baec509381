"""Networks, one family a file; `MODELS` names those that a config can choose."""

from genjax.core.registry import Registry
from genjax.models import (
    classifier,
    clip,
    dinov2,
    discriminator,
    dit,
    edm2,
    inception,
    lpips,
    parti,
    unet,
    uvit,
    vae,
    vit_vqgan,
    wide_resnet,
)

MODELS = Registry(
    "network",
    {
        "dit": dit.DiT,
        "edm2": edm2.EDM2UNet,
        "edm2_denoiser": edm2.EDM2Denoiser,
        "classifier": classifier.ConvClassifier,
        "parti": parti.Parti,
        "unet": unet.UNet,
        "uvit": uvit.UViT,
        "kl_vae": vae.KLVAE,
        "vit_vqgan": vit_vqgan.ViTVQGAN,
        "stylegan_discriminator": discriminator.StyleGANDiscriminator,
        "wide_resnet": wide_resnet.WideResNet,
        "fid_inception": inception.FIDInception,
        "clip": clip.CLIP,
        "dinov2": dinov2.DINOv2,
        "lpips": lpips.LPIPS,
    },
    {
        "dit": dit.VARIANTS,
        "edm2": edm2.VARIANTS,
        "edm2_denoiser": edm2.VARIANTS,
        "parti": parti.VARIANTS,
        "unet": unet.VARIANTS,
        "uvit": uvit.VARIANTS,
        "kl_vae": vae.VARIANTS,
        "vit_vqgan": vit_vqgan.VARIANTS,
        "wide_resnet": wide_resnet.VARIANTS,
        "clip": clip.VARIANTS,
        "dinov2": dinov2.VARIANTS,
    },
)
