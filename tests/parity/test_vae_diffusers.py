"""The autoencoder against diffusers' AutoencoderKL with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file  # noqa: E402

from genjax import weights  # noqa: E402
from genjax.models.vae import KLVAE  # noqa: E402
from genjax.weights import vae  # noqa: E402

pytestmark = pytest.mark.parity

CASES = {
    "equal widths": {"block_out_channels": (32, 32), "norm_num_groups": 32},
    "no attention": {
        "block_out_channels": (32, 64),
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
    },
    "three levels": {
        "block_out_channels": (16, 32, 32),
        "norm_num_groups": 8,
        "layers_per_block": 2,
        "latent_channels": 6,
    },
    "no 1x1 convolutions": {
        "block_out_channels": (32, 64),
        "norm_num_groups": 8,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}


def reference(fields, seed=0):
    """Returns diffusers' model with every tensor random: norms at 1 and biases at 0 hide errors."""
    torch.manual_seed(seed)
    levels = len(fields["block_out_channels"])
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **fields,
    ).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + (1.0 if "norm" in name else 0.0))
    return model


def tensors_of(model):
    return {k: v.numpy() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_encode_and_decode(case):
    model = reference(CASES[case])
    module, variables = vae.load(tensors_of(model), **dict(model.config))
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = model.encode(torch.tensor(x.transpose(0, 3, 1, 2))).latent_dist
        want = posterior.parameters.numpy().transpose(0, 2, 3, 1)
    got = np.asarray(module.apply(variables, jnp.asarray(x), method=KLVAE.encode))
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(got, want, atol=1e-4)

    z = rng.standard_normal((2, 4, 6, module.latent_channels)).astype(np.float32)
    with torch.no_grad():
        want = model.decode(torch.tensor(z.transpose(0, 3, 1, 2))).sample.numpy()
    got = np.asarray(module.apply(variables, jnp.asarray(z), method=KLVAE.decode))
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=1e-4)


def test_a_saved_folder_is_read_with_its_configuration_and_written_back(tmp_path):
    model = reference(CASES["no attention"] | {"mid_block_add_attention": True})
    model.save_pretrained(tmp_path)  # norm_num_groups 8 stands in its config.json alone
    module, variables = weights.load("diffusers-vae", tmp_path)
    assert module.norm_num_groups == 8
    weights.save("diffusers-vae", module, variables, str(tmp_path / "back.safetensors"))
    back = load_file(tmp_path / "back.safetensors")
    model.load_state_dict(back, strict=True)
    original = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


def test_names_and_shapes_at_full_size():
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    shapes = jax.eval_shape(KLVAE().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    ours = vae.save(
        KLVAE(), {"params": jax.tree.map(lambda s: np.broadcast_to(np.int8(0), s.shape), shapes)}
    )
    assert {k: v.shape for k, v in ours.items()} == want
