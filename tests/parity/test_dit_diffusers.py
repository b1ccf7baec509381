"""DiT against diffusers' DiTTransformer2DModel, its time frequencies set right."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from genjax import weights  # noqa: E402

pytestmark = pytest.mark.parity


def reference(patch, size, shift):
    """Returns a random small network of diffusers.

    It divides time frequencies by 127 where DiT divides by 128 (`downscale_freq_shift` 1 and 0).
    """
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=size,
        patch_size=patch,
        num_embeds_ada_norm=10,
    ).eval()
    first = model.transformer_blocks[0].norm1.emb
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.1)
        for block in model.transformer_blocks:
            block.norm1.emb.load_state_dict(first.state_dict())
            block.norm1.emb.time_proj.downscale_freq_shift = shift
    return model


def facebook_names(model):
    """Returns the network's tensors as DiT's own files name them."""
    t = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    emb = "transformer_blocks.0.norm1.emb."
    out = {"y_embedder.embedding_table.weight": t[emb + "class_embedder.embedding_table.weight"]}
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": emb + "timestep_embedder.linear_1",
        "t_embedder.mlp.2": emb + "timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for i in range(3):
        here, there = f"blocks.{i}.", f"transformer_blocks.{i}."
        names |= {
            here + "adaLN_modulation.1": there + "norm1.linear",
            here + "attn.proj": there + "attn1.to_out.0",
            here + "mlp.fc1": there + "ff.net.0.proj",
            here + "mlp.fc2": there + "ff.net.2",
        }
        for end in ("weight", "bias"):
            parts = [t[f"{there}attn1.to_{n}.{end}"] for n in "qkv"]
            out[f"{here}attn.qkv.{end}"] = np.concatenate(parts)
    for ours, theirs in names.items():
        out |= {f"{ours}.{end}": t[f"{theirs}.{end}"] for end in ("weight", "bias")}
    return out


def both(patch=2, size=8, shift=0, times=(5, 700, 999)):
    model = reference(patch, size, shift)
    module, variables = weights.load("facebook-dit", facebook_names(model), num_heads=4)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, size, size), dtype=np.float32)
    t, y = np.array(times), np.array([0, 9, 10])
    with torch.no_grad():
        want = model(
            torch.tensor(x), timestep=torch.tensor(t), class_labels=torch.tensor(y)
        ).sample.numpy()
    found = module.apply(variables, x.transpose(0, 2, 3, 1), jnp.asarray(t), jnp.asarray(y))
    return np.asarray(found).transpose(0, 3, 1, 2), want


@pytest.mark.parametrize(("patch", "size"), [(2, 8), (4, 16)])
def test_outputs_agree(patch, size):
    found, want = both(patch, size)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(found, want, atol=2e-5 * max(1, np.abs(want).max()))


def test_diffusers_as_it_is_differs_away_from_time_zero():
    found, want = both(shift=1)
    assert np.abs(found - want).max() > 0.1
    found, want = both(shift=1, times=(0, 0, 0))
    np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())
