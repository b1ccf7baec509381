"""Codecs: scaling, posterior sampling, keys, and the frozen file that a run names."""

import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.core import keys
from genjax.core.errors import UserError
from genjax.models.vae import KLVAE
from genjax.tasks.codec import CODECS

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 2,
}


def small(**fields):
    return CODECS.build({"name": "kl_vae", "model": {"name": "kl_vae", **SMALL}, **fields})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Returns a small autoencoder with random weights, as a file."""
    module = KLVAE(**SMALL)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32),
        nn.meta.unbox(shapes["params"]),
    )
    variables = {"params": params}
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    weights.save("diffusers-vae", module, variables, str(path))
    return path


def test_identity_hands_through():
    codec, x = CODECS.build({"name": "identity"}), jnp.ones((1, 4, 4, 3))
    assert codec.latent_shape((4, 4, 3)) == (4, 4, 3)
    frozen = codec.load()
    assert codec.decode(frozen, codec.encode(frozen, x)) is x
    assert codec.record() == {}
    with pytest.raises(UserError, match=r"task\.codec\.name"):
        codec.from_moments(x)


def test_the_default_is_stable_diffusions_autoencoder():
    codec = CODECS.build({"name": "kl_vae"})
    assert codec.model == KLVAE()
    assert codec.scale == 0.18215
    assert codec.latent_shape((256, 512, 3)) == (32, 64, 4)


def test_latents_are_shifted_then_scaled_and_decoding_undoes_it(file):
    # EDM2's: minus the channels' means, times 0.5 / their standard deviations.
    codec = small(path=str(file), shift=[5.81, 3.25], scale=[0.5 / 4.17, 0.5 / 4.62])
    frozen = codec.load()
    moments = jnp.zeros((1, 1, 1, 4)).at[..., :2].set(jnp.array([5.81 + 4.17, 3.25 - 2 * 4.62]))
    z = codec.from_moments(moments)
    np.testing.assert_allclose(z[0, 0, 0], [0.5, -1.0], rtol=1e-5)
    want = jax.jit(lambda z: codec.model.apply(frozen, z, method="decode"))(moments[..., :2])
    np.testing.assert_allclose(jax.jit(codec.decode)(frozen, z), want, rtol=1e-4, atol=1e-4)


def test_encode_is_a_sample_of_the_moments_of_the_network(file):
    codec = small(path=str(file))
    frozen = codec.load()
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1)
    key = jax.random.key(2)
    moments, mean, drawn = jax.jit(
        lambda x: (codec.moments(frozen, x), codec.encode(frozen, x), codec.encode(frozen, x, key))
    )(x)
    np.testing.assert_allclose(mean, 0.18215 * moments[..., :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(drawn, codec.from_moments(moments, key), rtol=1e-5, atol=1e-5)
    assert np.abs(drawn - mean).max() > 0.01


def test_samples_have_the_posteriors_spread_also_from_bfloat16_moments():
    moments = jnp.zeros((1, 100, 100, 4)).at[..., 2:].set(2 * np.log(3.0)).at[..., 0].set(7.0)
    for dtype in (jnp.float32, jnp.bfloat16):
        z = small(scale=2.0).from_moments(moments.astype(dtype), jax.random.key(0))
        assert z.dtype == jnp.float32
        np.testing.assert_allclose(jnp.mean(z, (0, 1, 2)), [14.0, 0.0], atol=0.25)
        np.testing.assert_allclose(jnp.std(z, (0, 1, 2)), [6.0, 6.0], rtol=0.03)


def test_with_a_key_an_image_the_noise_does_not_depend_on_the_batch():
    moments = jax.random.normal(jax.random.key(0), (4, 3, 3, 4))
    each = keys.per_sample(jax.random.key(1), jnp.arange(4))
    together = small().from_moments(moments, each)
    alone = small().from_moments(moments[2:3], each[2:3])
    np.testing.assert_array_equal(together[2:3], alone)
    assert not np.allclose(together[0] - moments[0, ..., :2], together[1] - moments[1, ..., :2])


def test_the_file_is_recorded_by_path_and_hash(file):
    record = small(path=str(file)).record()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record == {"path": str(file), "format": "diffusers-vae", "sha256": digest}


def test_wrong_settings_name_their_key(file):
    with pytest.raises(UserError, match=r"task\.codec\.path"):
        small().load()
    with pytest.raises(UserError, match="no_such"):
        small(path="no_such.safetensors").record()
    with pytest.raises(UserError, match="scale has 3 values"):
        small(scale=(1.0, 2.0, 3.0))
    with pytest.raises(UserError, match="scale must not be 0"):
        small(scale=0.0)
    with pytest.raises(UserError, match="divisible by 2"):
        small().latent_shape((9, 8, 3))
    with pytest.raises(UserError, match="3 channels"):
        small().latent_shape((8, 8, 1))
    other = CODECS.build(
        {
            "name": "kl_vae",
            "path": str(file),
            "model": {"name": "kl_vae", **SMALL, "latent_channels": 4},
        }
    )
    with pytest.raises(UserError, match=r"task\.codec\.model\.latent_channels is 4"):
        other.load()


def test_a_configuration_beside_the_file_must_agree(file, tmp_path):
    copy = tmp_path / "vae.safetensors"
    copy.write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"norm_num_groups": 2}')
    with pytest.raises(UserError, match=r"task\.codec\.model\.norm_num_groups is 4"):
        small(path=str(copy)).load()
