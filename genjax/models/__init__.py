"""Networks, one family a file; `MODELS` names those that a config can choose."""

from genjax.core.registry import Registry
from genjax.models import classifier, dit, vae

MODELS = Registry(
    "network",
    {"dit": dit.DiT, "classifier": classifier.ConvClassifier, "kl_vae": vae.KLVAE},
    {"dit": dit.VARIANTS, "kl_vae": vae.VARIANTS},
)
