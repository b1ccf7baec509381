"""EDM2's U-Net: the sheet's counts, the equations, scanned runs, masks, skips, features, D."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.tree import flatten, map_with_path, size
from genjax.models import MODELS
from genjax.models.edm2 import VARIANTS, EDM2Denoiser, EDM2UNet

LATENT = {
    "XXS": 31_308_901, "XS": 124_713_125, "S": 280_212_709, "M": 497_807_653,
    "L": 777_497_957, "XL": 1_119_283_621, "XXL": 1_523_164_645,
}  # fmt: skip
PIXELS = {"XS": 124_710_821, "S": 280_209_253, "M": 497_803_045}
# Two levels, two blocks: runs of two in the encoder and the decoder, single ones beside them.
TINY = EDM2UNet(
    width=8, multipliers=(1, 2), blocks=2, attention_levels=(1,), head_channels=8, num_classes=3
)
# One level: few programs, where the level does not matter.
MINI = dataclasses.replace(TINY, multipliers=(1,), blocks=1, attention_levels=(0,))


@functools.cache
def jitted(module, **fixed):
    """Returns module.apply(variables, x, t, y, inputs=None, rngs=None), compiled."""

    def apply(variables, x, t, y, inputs=None, rngs=None):
        return module.apply(variables, x, t, y, inputs=inputs, rngs=rngs, **fixed)

    return jax.jit(apply)


def abstract(module, shape=(64, 64, 4)):
    args = jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    return jax.eval_shape(module.init, *args)["params"]


def learned(params):
    """Returns the parameters without the Fourier constants, which no gradient reaches."""
    return {k: v for k, v in flatten(params).items() if not k.endswith(("freqs", "phases"))}


def filled(module, shape=(8, 8, 3)):
    """Returns parameters with gains that are not 0."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        return 0.5 + 0.1 * values if path.endswith("gain") else values

    return {"params": map_with_path(one, nn.unbox(abstract(module, shape)))}


def batch(b=2, shape=(8, 8, 3)):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((b, *shape), dtype=np.float32)
    return jnp.asarray(x), jnp.linspace(-0.6, 0.4, b), jnp.arange(b)


@pytest.mark.parametrize("variant", LATENT)
def test_parameters_are_the_sheet_s(variant):
    module = MODELS.build({"name": "edm2", "variant": variant})
    count = size(learned(nn.unbox(abstract(module))))
    assert count == LATENT[variant] + 128  # and the log-variance
    if variant in PIXELS:
        count = size(learned(nn.unbox(abstract(module, (64, 64, 3)))))
        assert count == PIXELS[variant] + 128


def test_small_parameter_count_and_operations_of_the_sheet():
    small = EDM2UNet(width=64, multipliers=(1, 2), blocks=1, attention_levels=(1,), num_classes=10)
    assert size(learned(nn.unbox(abstract(small, (16, 16, 3))))) == 2_888_907 + 128
    for name, gflop in (("XS", 89.9), ("S", 201.6)):
        assert round(EDM2UNet(**VARIANTS[name]).forward_flops((64, 64, 4)) / 1e9, 1) == gflop


def test_operations_are_those_of_the_program():
    module = dataclasses.replace(TINY, width=32, blocks=1, multipliers=(1, 2), head_channels=32)
    x, t, y = batch(1, (16, 16, 3))
    variables = {"params": nn.unbox(abstract(module, (16, 16, 3)))}
    compiled = jax.jit(module.apply).lower(variables, x, t, y).compile()
    ratio = compiled.cost_analysis()["flops"] / module.forward_flops((16, 16, 3))
    assert 0.8 < ratio < 1.15  # XLA leaves out the products with the zeros around an image


def test_runs_hold_every_block_once_in_order():
    names = TINY.block_names
    assert names == (
        "enc0_block0", "enc0_block1", "enc1_down", "enc1_block0", "enc1_block1",
        "dec1_in0", "dec1_in1", "dec1_block0", "dec1_block1", "dec1_block2",
        "dec0_up", "dec0_block0", "dec0_block1", "dec0_block2",
    )  # fmt: skip
    assert TINY.skip_names == ("enc0_conv", *names[:5])
    stacked = [run.name for run in TINY.runs if len(run.names) > 1]
    assert stacked == ["enc0_block0_to_1", "dec1_block0_to_1", "dec0_block1_to_2"]
    published = EDM2UNet()
    assert len(published.block_names) == 36 and len(published.runs) == 25


def reference(variables, x, c_noise, y, module, scale=None, mask=None):
    """An unscanned network in float64, written from the equations, on one image [h, w, c].

    Returns F, the log-variance and what leaves every block.
    """
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    blocks = {}
    for run in module.runs:
        for i, name in enumerate(run.names):
            one = p[run.name]
            blocks[name] = jax.tree.map(lambda a, i=i: a[i], one) if len(run.names) > 1 else one

    def norm(a, axis):
        return a / (np.sqrt(np.mean(a**2, axis=axis, keepdims=True)) + 1e-4)

    def used(w):
        axes = tuple(range(w.ndim - 1))
        return norm(w, axes) / np.sqrt(np.prod(w.shape[:-1]))

    def silu(a):
        return a / (1 + np.exp(-a)) / 0.596

    def conv(a, w):
        w, (h, v, _) = used(w), a.shape
        padded = np.pad(a, ((1, 1), (1, 1), (0, 0)))
        return sum(padded[i : i + h, j : j + v] @ w[i, j] for i in range(3) for j in range(3))

    def merge(a, b, t=0.3):
        return ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)

    def fourier(q):
        return np.sqrt(2) * np.cos(c_noise * q["freqs"] + q["phases"])

    emb = fourier(p["fourier"]) @ used(p["emb_noise"]["kernel"])
    one_hot = np.eye(module.num_classes + 1)[y][:-1] * np.sqrt(module.num_classes)
    emb = silu(merge(emb, one_hot @ used(p["label"]["table"]), 0.5))
    left = {}

    def block(name, a, skip=None):
        q = blocks[name]
        if skip is not None:
            total = np.sqrt(2 * (a.shape[-1] + skip.shape[-1]))
            halves = [z * total / np.sqrt(z.shape[-1]) / 2 for z in (a, skip)]
            a = np.concatenate(halves, -1)
        h, w, c = a.shape
        if name.endswith("down"):
            a = a.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))
        if name.endswith("up"):
            a = a.repeat(2, 0).repeat(2, 1)
        path = a @ used(q["skip"]["kernel"]) if "skip" in q else a
        if name.startswith("enc"):
            a = path = norm(path, -1)
        out = path
        if mask is None or mask[name]:
            r = conv(silu(a), q["conv0"]["kernel"])
            r = silu(r * (1 + q["emb_gain"] * (emb @ used(q["emb"]["kernel"]))))
            out = merge(path, conv(r, q["conv1"]["kernel"]))
        if "qkv" in q and (mask is None or mask[f"{name}_attention"]):
            tokens = out.reshape(-1, out.shape[-1])
            qkv = (tokens @ used(q["qkv"]["kernel"])).reshape(
                len(tokens), -1, module.head_channels, 3
            )
            u, k, v = np.moveaxis(norm(qkv, 2), 3, 0)
            logits = np.einsum("lhd,mhd->hlm", u, k) / np.sqrt(module.head_channels)
            weight = np.exp(logits)
            weight /= weight.sum(-1, keepdims=True)
            seen = np.einsum("hlm,mhd->lhd", weight, v).reshape(tokens.shape)
            out = merge(out, (seen @ used(q["proj"]["kernel"])).reshape(out.shape))
        left[name] = np.clip(out, -256, 256)
        return left[name]

    a = conv(np.concatenate([x, np.ones((*x.shape[:2], 1))], -1), p["in_conv"]["kernel"])
    skips = [("enc0_conv", a)]
    for name in module.block_names:
        if name.startswith("enc"):
            a = block(name, a)
            skips.append((name, a))
        elif "block" in name:
            source, skip = skips.pop()
            a = block(name, a, skip * (1 if scale is None else scale[source]))
        else:
            a = block(name, a)
    u = fourier(p["logvar_fourier"]) @ used(p["logvar"]["kernel"])
    return conv(a, p["out_conv"]["kernel"]) * p["out_gain"], float(u[0]), left


def close(found, want, tolerance=2e-4):
    np.testing.assert_allclose(found, want, atol=tolerance * np.abs(want).max())


def test_forward_features_and_log_variance_equal_the_equations():
    x, t, y = batch(2, (4, 8, 3))
    y = jnp.array([1, 3])  # the second without label
    variables = filled(TINY, (4, 8, 3))
    names = ("logvar", "mid", "enc0_block1", "enc1_down", "dec1_block1", "dec0_block2")
    found, features = jitted(TINY, features=names)(variables, x, t, y)
    assert found.shape == x.shape and found.dtype == jnp.float32
    assert features.keys() == set(names) and features["logvar"].shape == (2,)
    for i in range(2):
        want, logvar, left = reference(variables, np.asarray(x[i]), float(t[i]), int(y[i]), TINY)
        close(found[i], want)
        assert float(features["logvar"][i]) == pytest.approx(logvar, abs=1e-4)
        for name in names[1:]:
            close(features[name][i], left["dec1_in1" if name == "mid" else name])


def test_skip_scales_and_masks_are_those_of_the_equations_in_every_place():
    x, t, y = batch(1)
    variables = filled(TINY)
    apply = functools.partial(jitted(TINY), variables, x, t, y)
    rng = np.random.default_rng(2)
    scale = rng.uniform(0.5, 1.5, len(TINY.skip_names)).astype(np.float32)
    mask = (rng.random(len(TINY.unit_names)) < 0.5).astype(np.float32)
    named_scale = dict(zip(TINY.skip_names, scale))
    named_mask = dict(zip(TINY.unit_names, mask > 0))
    args = variables, np.asarray(x[0]), float(t[0]), int(y[0]), TINY
    ones = {"skip_scale": np.ones_like(scale), "block_mask": np.ones_like(mask)}
    found = apply(ones | {"skip_scale": scale})
    close(found[0], reference(*args, scale=named_scale)[0])
    found = apply({"skip_scale": scale, "block_mask": mask})
    close(found[0], reference(*args, named_scale, named_mask)[0])
    close(apply(ones), apply(), 1e-5)


def test_labels_may_be_a_dict_an_array_or_absent():
    x, t, y = batch()
    variables, apply = filled(MINI), jitted(MINI)
    found = apply(variables, x, t, y)
    np.testing.assert_array_equal(found, apply(variables, x, t, {"label": y}))
    null = apply(variables, x, t, jnp.full(2, 3))
    np.testing.assert_array_equal(null, apply(variables, x, t, None))
    assert np.abs(null - found).max() > 0.01 and MINI.null_label
    without = dataclasses.replace(MINI, num_classes=0)
    assert not without.null_label
    shapes = nn.unbox(abstract(without, (8, 8, 3)))
    assert "label" not in shapes
    assert jax.eval_shape(without.apply, {"params": shapes}, x, t).shape == x.shape


def test_initial_weights_are_raw_and_the_output_is_zero():
    module = dataclasses.replace(MINI, width=32)
    x, t, y = batch()
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(0), x, t, y))
    p = flatten(variables["params"])
    for name, leaf in p.items():
        if name.endswith(("kernel", "table")) and leaf.size > 8000:
            assert abs(float(leaf.std()) - 1) < 0.05, name
        if name.endswith("gain"):
            assert not np.any(leaf), name
    assert not np.any(jitted(module)(variables, x, t, y))
    denoiser = denoiser_of(module)
    sigma = jnp.array([0.5, 80.0])
    d = jitted(denoiser)(variables, x, sigma, y)
    want = x * (0.25 / (0.25 + sigma**2))[:, None, None, None]
    np.testing.assert_allclose(d, want, rtol=1e-6)
    assert denoiser.network == module


def denoiser_of(module, sigma_data=0.5):
    names = (f.name for f in dataclasses.fields(module))
    fields = {n: getattr(module, n) for n in names if n not in ("parent", "name")}
    return EDM2Denoiser(sigma_data=sigma_data, **fields)


def test_denoiser_preconditions_the_network_with_the_same_parameters():
    x, _, y = batch()
    denoiser, variables = denoiser_of(MINI, 0.7), filled(MINI)
    assert jax.tree.map(jnp.shape, nn.unbox(abstract(denoiser, (8, 8, 3)))) == jax.tree.map(
        jnp.shape, variables["params"]
    )
    sigma = np.array([0.1, 5.0], np.float32)
    found, features = jitted(denoiser, features=("logvar",))(variables, x, sigma, y)
    s = sigma[:, None, None, None]
    q = s**2 + 0.49
    raw, own = jitted(MINI, features=("logvar",))(variables, x / np.sqrt(q), np.log(sigma) / 4, y)
    np.testing.assert_allclose(found, 0.49 / q * x + s * 0.7 / np.sqrt(q) * raw, atol=1e-5)
    np.testing.assert_allclose(features["logvar"], own["logvar"], rtol=1e-5)


def test_projection_leaves_the_function_and_makes_unit_weights():
    x, t, y = batch()
    variables = filled(TINY)
    scaled = {"params": map_with_path(
        lambda path, w: w * (3.0 if path.endswith(("kernel", "table")) else 1), variables["params"]
    )}  # fmt: skip
    projected = {"params": TINY.project(scaled["params"])}
    apply = jitted(TINY, features=("logvar",))
    (before, u), (after, v) = (apply(tree, x, t, y) for tree in (scaled, projected))
    close(after, before, 1e-3)
    np.testing.assert_allclose(v["logvar"], u["logvar"], rtol=1e-3)
    again = TINY.project(projected["params"])
    for path, leaf in flatten(projected["params"]).items():
        if path.endswith(("kernel", "table")):
            stacked = leaf.ndim % 2
            rms = np.sqrt(np.mean(np.square(leaf), axis=tuple(range(stacked, leaf.ndim - 1))))
            np.testing.assert_allclose(rms, 1, atol=1e-3, err_msg=path)
            np.testing.assert_allclose(flatten(again)[path], leaf, rtol=2e-4)
        else:
            np.testing.assert_array_equal(leaf, flatten(scaled["params"])[path])


@pytest.mark.slow
def test_rematerialisation_changes_nothing():
    x, t, y = batch(1)
    variables = filled(MINI)

    def value(module):
        square = lambda v: jnp.sum(module.apply(v, x, t, y) ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(square))(variables)

    want, found = value(MINI), value(dataclasses.replace(MINI, remat="full"))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
    for path, leaf in flatten(want[1]).items():
        other = flatten(found[1])[path]
        np.testing.assert_allclose(other, leaf, atol=1e-4 * float(jnp.abs(leaf).max()) + 1e-9)


def test_dropout_acts_in_training_only():
    x, t, y = batch()
    module = dataclasses.replace(MINI, dropout=0.5)
    variables = filled(module)
    still = jitted(MINI)(variables, x, t, y)
    np.testing.assert_array_equal(jitted(module)(variables, x, t, y), still)
    apply = jitted(module, train=True)

    def draw(seed):
        return apply(variables, x, t, y, rngs={"dropout": jax.random.key(seed)})

    assert np.abs(draw(0) - still).max() > 0.01 and np.abs(draw(0) - draw(1)).max() > 0.01
    np.testing.assert_array_equal(draw(0), draw(0))


def test_half_precision_computes_in_bfloat16_and_returns_float32():
    x, t, y = batch()
    half = dataclasses.replace(MINI, dtype="bfloat16")
    variables = filled(half)
    apply = jitted(half, features=("logvar",))
    (found, features), (want, own) = (
        f(variables, x, t, y) for f in (apply, jitted(MINI, features=("logvar",)))
    )
    assert found.dtype == jnp.float32
    assert 1e-5 < np.abs(found - want).max() / np.abs(want).max() < 0.05
    np.testing.assert_allclose(features["logvar"], own["logvar"], rtol=1e-6)
    hlo = apply.lower(variables, x, t, y).as_text()
    assert "convolution" in hlo and "bf16" in hlo


def test_parameters_carry_logical_axes():
    boxes = jax.tree.leaves(abstract(TINY), is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(isinstance(b, nn.LogicallyPartitioned) for b in boxes)
    assert all(len(b.names) == len(b.value.shape) for b in boxes)
    run = abstract(TINY)["enc0_block0_to_1"]
    assert run["conv0"]["kernel"].names == ("layers", None, None, None, "channels")
    assert run["emb_gain"].names == ("layers",)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head_channels": 80}, "heads of 80 channels do not divide the 576 channels"),
        ({"attention_levels": (4,)}, r"attention_levels: \(4,\) are not all of the 4 levels"),
        ({"multipliers": ()}, "attention_levels"),
        ({"blocks": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout lies in"),
        ({"remat": "half"}, "remat: 'half' is no policy"),
        ({"dtype": "float16"}, "dtype: 'float16' is neither"),
        ({"attention": "flash"}, "attention: 'flash' is none of"),
    ],
)
def test_fields_out_of_range_are_named(fields, words):
    with pytest.raises(UserError, match=words):
        MODELS.build({"name": "edm2", **fields}, "network")


def test_sides_and_features_are_checked():
    with pytest.raises(ValueError, match=r"7 x 8 cannot be halved 1 times"):
        TINY.apply({}, jnp.zeros((1, 7, 8, 3)), jnp.zeros(1))
    with pytest.raises(ValueError, match="features: 'block_0' is none of dec0_block0"):
        TINY.apply({}, *batch(), features=("block_0",))
