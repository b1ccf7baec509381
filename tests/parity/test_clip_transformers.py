"""CLIP and DINOv2 against transformers with random weights, every tensor random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from genjax import weights  # noqa: E402
from genjax.models.clip import CLIP  # noqa: E402

pytestmark = pytest.mark.parity

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "projection_dim": 24,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 24,
}


def randomised(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim < 2 and p.ndim > 0:
                one = any(s in name for s in ("norm", "lambda")) and "bias" not in name
                p.copy_(torch.randn_like(p) * 0.2 + (1.0 if one else 0.0))
            elif p.ndim:
                fan_in = p[0].numel() if p.ndim == 2 or p.ndim == 4 else p.shape[-1]
                p.copy_(torch.randn_like(p) * (1.0 / fan_in**0.5))
    return model.eval()


def tensors_of(model):
    return {k: v.numpy() for k, v in model.state_dict().items()}


def close(found, want):
    want = want.detach().numpy()
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(np.asarray(found), want, atol=1e-4 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("end, act", [(2, "quick_gelu"), (7, "gelu")])
def test_clip(end, act):
    text, vision = {**TEXT, "hidden_act": act, "eos_token_id": end}, {**VISION, "hidden_act": act}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = randomised(transformers.CLIPModel(config))
    module, variables = weights.load(
        "clip", tensors_of(model), text_config=text, vision_config=vision
    )
    rng = np.random.default_rng(0)
    tokens = rng.integers(8, 90, (3, 12)).astype(np.int32)
    last = 98 if end == 2 else end
    for i, n in enumerate((4, 7, 11)):
        tokens[i, n:] = last
    x = rng.standard_normal((3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        want = model(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            pixel_values=torch.tensor(x.transpose(0, 3, 1, 2)),
            output_hidden_states=True,
        )
    got = jax.jit(module.apply)(variables, x, jnp.asarray(tokens))
    close(got["image"], want.image_embeds)
    close(got["text"], want.text_embeds)
    close(got["logits"], want.logits_per_image)
    text = module.apply(variables, tokens, method=CLIP.encode_text)
    close(text["last"], want.text_model_output.last_hidden_state)
    close(text["penultimate"], want.text_model_output.hidden_states[-2])
    close(text["embedding"], want.text_model_output.pooler_output)
    image = module.apply(variables, x, method=CLIP.encode_image)
    close(image["last"], want.vision_model_output.last_hidden_state)
    close(image["penultimate"], want.vision_model_output.hidden_states[-2])
    close(image["embedding"], want.vision_model_output.pooler_output)
    saved = weights.tensors("clip", module, variables)
    assert saved.keys() == tensors_of(model).keys()
    assert all(np.array_equal(saved[k], v) for k, v in tensors_of(model).items())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", [(56, 56), (28, 70)])
def test_dinov2(gated, shape):
    config = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=3,
        image_size=56,
        patch_size=14,
        use_swiglu_ffn=gated,
    )
    model = randomised(transformers.Dinov2Model(config))
    module, variables = weights.load("dinov2", tensors_of(model), num_attention_heads=2)
    x = np.random.default_rng(0).standard_normal((2, *shape, 3)).astype(np.float32)
    with torch.no_grad():
        want = model(torch.tensor(x.transpose(0, 3, 1, 2)), output_hidden_states=True)
    got = module.apply(variables, x)
    close(got["class"], want.last_hidden_state[:, 0])
    close(got["patches"], want.last_hidden_state[:, 1:])
    close(got["penultimate"], want.hidden_states[-2])
    # Written in the original names and read again it is the same network.
    back = weights.load("dinov2", weights.tensors("dinov2", module, variables), num_heads=2)
    assert back[0] == module.clone(offset=0.1)
    if shape == (56, 56):
        np.testing.assert_array_equal(back[0].apply(back[1], x)["class"], got["class"])
