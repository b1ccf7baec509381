"""The task of diffusion models: streams, latents, codec, null labels, held-out loss, sampler."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from genjax import weights
from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.core.types import ArraySpec, Player, Progress, View
from genjax.models.vae import KLVAE
from genjax.tasks import Diffusion
from genjax.tasks.generate import Generator
from tests.tasks.tiny import task

VAE = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 2,
}
RGB = {"image": (8, 8, 3), "levels": 256}


@dataclasses.dataclass(frozen=True)
class Cheap(Diffusion):
    """Has a network without parameters that shows what it was given."""

    def _apply(self, params, x, time, cond, *, train=False, key=None, **kwargs):
        label = 0 if cond is None else cond["label"].reshape(-1, *[1] * (x.ndim - 1))
        return 0.5 * x + 0.1 * label + 10.0 * train + 0 * time.reshape(-1, *[1] * (x.ndim - 1))


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """The choice of a small autoencoder whose random weights are in a file."""
    module = KLVAE(**VAE)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32),
        nn.meta.unbox(shapes["params"]),
    )
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    weights.save("diffusers-vae", module, {"params": params}, str(path))
    return {"name": "kl_vae", "path": str(path), "model": {"name": "kl_vae", **VAE}}


def view(**frozen):
    return View({}, {}, {}, frozen)


def test_streams_say_what_a_batch_holds(codec):
    label = ArraySpec((), "int32")
    pixels = ArraySpec((8, 8, 1), "uint8", ("height", "width", "channels"))
    assert task().streams == {"main": {"image": pixels, "label": label}}
    assert task(model={"num_classes": 0}).streams == {"main": {"image": pixels}}
    moments = ArraySpec((4, 4, 4), "float32", ("height", "width", "channels"))
    latent = task(codec=codec, latents=True, **RGB)
    assert latent.streams == {"main": {"moments": moments, "label": label}}
    assert latent.shape == (4, 4, 2)
    online = task(codec=codec, **RGB).streams["main"]["image"]
    assert online.shape == (8, 8, 3) and online.dtype == "uint8"


def test_one_player_trains_the_one_network():
    made = task()
    (player,) = made.players
    assert isinstance(player, Player)
    assert (player.name, player.trains, player.streams) == ("model", ("model",), ("main",))
    state = jax.eval_shape(made.init, jax.random.key(0))
    assert set(state["params"]) == {"model"} and state["mutable"] == {}
    boxes = jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "names"))
    assert boxes and all(hasattr(x, "names") for x in boxes)  # logical axis names
    assert made.load_frozen() == {}


def test_networks_work_on_the_latent_shape(codec):
    made = task(codec=codec, model={"patch": 2}, **RGB)
    kernel = nn.meta.unbox(jax.eval_shape(made.init, jax.random.key(0)))["params"]["model"]
    assert kernel["patch_embed"]["kernel"].shape == (2 * 2 * 2, 16)
    assert made.forward_flops() == made.model.forward_flops((4, 4, 2)) > 0
    assert task().forward_flops() == task().model.forward_flops((8, 8, 1))


def test_latents_are_samples_of_their_posterior(codec):
    made = task(codec={**codec, "scale": 0.5}, latents=True, **RGB)
    mean = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
    logvar = np.full_like(mean, np.log(0.3**2))
    stream = {"moments": np.concatenate([mean, logvar], -1), "label": np.arange(3)}

    def prepared(key):
        x0, cond = made.parts.prepare(stream, view(), key)
        assert cond["label"] is stream["label"]
        return x0

    draws = np.asarray(jax.vmap(prepared)(jax.random.split(jax.random.key(1), 400)))
    assert draws.dtype == np.float32 and np.all(draws[0] != draws[1])
    error = np.abs(draws.mean(0) - 0.5 * mean)
    assert error.max() < 5 * 0.5 * 0.3 / np.sqrt(400)  # five standard errors of the mean
    np.testing.assert_allclose(draws.std(0).mean(), 0.5 * 0.3, rtol=0.02)


def test_images_are_encoded_while_training(codec):
    made = task(Cheap, codec=codec, **RGB)
    frozen = made.load_frozen()
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    stream = {"image": image, "label": np.zeros(2, np.int32)}
    key = jax.random.key(5)

    @jax.jit
    def both(frozen, key):
        x = image.astype(np.float32) / 127.5 - 1
        want = made.codec.encode(frozen["codec"], x, key)
        return made.parts.prepare(stream, view(**frozen), key)[0], want

    found, want = both(frozen, key)
    assert found.shape == (2, 4, 4, 2) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert not np.allclose(found, both(frozen, jax.random.key(6))[0], atol=1e-3)

    # Samples are decoded back to pixels.
    made = made.with_sampler(steps=2)
    drawn = Generator(made, batch=2)({}, frozen, num=2, labels=np.zeros(2, np.int32), seed=0)
    ((images, _),) = drawn
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8


def test_moments_with_the_identity_codec_name_the_key():
    made = task(latents=True)
    stream = {"moments": np.zeros((1, 8, 8, 2), np.float32), "label": np.zeros(1, np.int32)}
    with pytest.raises(UserError, match=r"task\.codec\.name"):
        made.parts.prepare(stream, view(), jax.random.key(0))


def test_null_is_the_number_of_classes():
    found = task().null({"label": jnp.array([3, 9], jnp.int32)})
    assert found["label"].tolist() == [10, 10] and found["label"].dtype == jnp.int32
    assert task().parts.drop == 0.1 and task(model={"num_classes": 0}).parts.drop == 0
    without = task(model={"null_label": False})
    assert not without.has_null
    with pytest.raises(UserError, match=r"task\.model\.null_label"):
        without.null({"label": jnp.zeros(1, jnp.int32)})


def test_a_network_without_a_null_label_is_sampled_unguided_only():
    rows = np.zeros(2, np.int32)
    made = task(Cheap, model={"null_label": False}, condition_dropout=0.0)
    ((plain, _),) = Generator(made, batch=2)({}, {}, num=2, labels=rows, seed=0)
    assert plain.shape == (2, 8, 8, 1)
    guided = task(
        Cheap, model={"null_label": False}, sampler={"guidance": {"name": "cfg", "weight": 2.0}}
    )
    with pytest.raises(UserError, match="classifier-free guidance"):
        list(Generator(guided, batch=2)({}, {}, num=2, labels=rows, seed=0))


def batch(n=64):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 17, (n, 8, 8, 1), np.uint8)
    return {"main": {"image": image, "label": (1 + np.arange(n) % 9).astype(np.int32)}}


def test_heldout_loss_is_deterministic_and_drops_nothing():
    dropping, keeping = task(Cheap, condition_dropout=0.9), task(Cheap, condition_dropout=0.0)

    def loss(made, seed):
        metrics = made.heldout({"model": {}}, view(), batch(), jax.random.key(seed)).metrics
        return float(metrics["loss"][0] / metrics["loss"][1])

    assert loss(dropping, 0) == loss(dropping, 0) == loss(keeping, 0)
    assert loss(dropping, 0) != loss(dropping, 1)

    (player,) = dropping.players
    progress = Progress(0, 0, 1)
    args = {"model": {}}, view(), batch(), jax.random.key(0), progress
    trained, aux = player.objective(*args)
    # The stand-in network adds 10 to its velocity in training.
    assert float(trained) > 50 and loss(dropping, 0) < 10
    np.testing.assert_allclose(aux.metrics["loss"][0] / aux.metrics["loss"][1], trained, rtol=1e-6)
    (other,) = keeping.players
    assert float(other.objective(*args)[0]) != float(trained)  # 0.9 of the labels were dropped


UNET = {"name": "unet", "variant": "ddpmpp", "channels": 16, "channel_mult": (1,), "blocks": 1}


def augmented(cls=Diffusion, classes=10, **fields):
    """A task with a small U-Net that is told of the augmentation."""
    model = {**UNET, "attention": (), "num_classes": classes, "augment": 9}
    chosen = {"image": (8, 8, 1), "model": model, "augment": {"name": "edm", "p": 0.9}} | fields
    return construct(cls, expand(cls, chosen, "task"), "task")


def test_augmentation_is_for_training_only_and_told():
    made = augmented()
    draws = {
        train: made.parts.draw(view(), batch()["main"], jax.random.key(1), Progress(0, 0, 1), train)
        for train in (True, False)
    }
    labels = np.asarray(draws[True].cond["augment"])
    assert labels.shape == (64, 9) and np.abs(labels).max() > 0
    assert "augment" not in draws[False].cond
    np.testing.assert_array_equal(draws[False].x0, made.from_pixels(batch()["main"]["image"]))
    changed = np.abs(np.asarray(draws[True].x0 - draws[False].x0)).max((1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(changed, np.any(labels != 0, axis=1))


def test_dropping_the_condition_keeps_the_augmentations_labels():
    """A network without class must still know what was done to its data."""
    kept, dropped = (augmented(condition_dropout=rate) for rate in (0.0, 0.999))
    one, other = (
        t.parts.draw(view(), batch()["main"], jax.random.key(1), Progress(0, 0, 1), True)
        for t in (kept, dropped)
    )
    assert np.all(np.asarray(other.cond["label"]) == 10)
    assert np.all(np.asarray(one.cond["label"]) < 10)
    np.testing.assert_array_equal(one.cond["augment"], other.cond["augment"])
    assert np.abs(one.cond["augment"]).max() > 0
    # without classes the labels are the whole condition
    stream = {"image": batch()["main"]["image"]}
    alone = augmented(classes=0).parts.draw(
        view(), stream, jax.random.key(1), Progress(0, 0, 1), True
    )
    assert set(alone.cond) == {"augment"}
    # and the null condition of guidance says nothing of it, which is zero
    assert set(kept.null(one.cond)) == {"label"}


def test_a_network_is_trained_with_and_sampled_without_augmentation():
    made = augmented(precond={"name": "edm"}, process={"name": "edm"})
    rng = np.random.default_rng(0)
    shapes = meta.unbox(jax.eval_shape(made.init, jax.random.key(0)))["params"]
    params = jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype(np.float32), shapes)
    label = jnp.zeros((10,), jnp.int32)
    x, t = jnp.ones((10, 8, 8, 1)), jnp.ones((10,))
    one_each = {"label": label, "augment": jnp.eye(10, 9)}  # the last is told of nothing

    @jax.jit
    def estimates(params):
        return [made.denoiser(params, x, t, cond).x0 for cond in (one_each, {"label": label})]

    told, untold = map(np.asarray, estimates(params["model"]))
    np.testing.assert_allclose(told[9], untold[9], atol=1e-6)  # none given is zero
    assert np.all(np.abs(told[:9] - untold[:9]).max((1, 2, 3)) > 1e-4)


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (task, {"augment": {"name": "edm"}}, r"augment: .* this DiT takes 0; choose a unet"),
        (augmented, {"model": {**UNET, "augment": 3}}, r"augment: .* this UNet takes 3"),
        (augmented, {"coupling": {"name": "paired"}}, "augment: the noise of a pair"),
        (augmented, {"latents": True}, "augment: images are changed"),
    ],
)
def test_augmentation_is_refused_where_it_has_no_meaning(cls, fields, words):
    with pytest.raises(UserError, match=words):
        cls(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"condition_dropout": 1.0}, "condition_dropout must lie in"),
        ({"data_range": (1.0, -1.0)}, "data_range must be"),
        ({"sampler": {"steps": 0}}, "steps must be at least 1"),
    ],
)
def test_values_out_of_range(fields, words):
    with pytest.raises(UserError, match=words):
        task(**fields)


@pytest.mark.parametrize("name", ["classifier", "kl_vae"])
def test_a_network_that_does_not_see_the_time_is_refused(name):
    full = expand(Diffusion, {"model": {"name": name}}, "config.task")
    with pytest.raises(UserError, match=r"config\.task: model: .* does not see the time"):
        construct(Diffusion, full, "config.task")


def test_dequantised_pixels_are_those_of_the_bits_and_come_back_as_grey_values():
    plain = task(objective={"name": "denoising"}, levels=17)
    noisy = dataclasses.replace(plain, dequantise=True)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 17, (16, *plain.image)), jnp.uint8)
    stream, view = {"image": image, "label": jnp.zeros(16, jnp.int32)}, View({}, {}, {}, {})
    x, _ = noisy.parts.prepare(stream, view, jax.random.key(0))
    grey = (x + 1) / 2 * 17
    np.testing.assert_array_equal(jnp.floor(grey), image)
    assert 0.28 < float(jnp.std(grey - image)) < 0.3  # uniform: 1/sqrt(12)
    np.testing.assert_array_equal(noisy.to_uint8(x), plain.to_uint8(plain.from_pixels(image)))
