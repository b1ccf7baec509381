"""Inception-v3 as the Frechet Inception Distance uses it, with the weights of 2015-12-05.

It differs from the classifier of the same name: average pools leave padded zeros out of their
divisor, the last block pools by maximum, and the last layer has 1008 outputs.
"""

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.core.resize import resize
from genjax.layers.conv import convolve, kernel_init
from genjax.layers.linear import Linear, named, ones, zeros

SIZE = 299
EPSILON = 1e-3
SPATIAL = 7  # channels of the feature map that sFID reads

# protocol -> (resize, whether 0..255 is divided by 127.5 or, shifted by 128, by 128).
PROTOCOLS = {
    "pytorch-fid": ("bilinear", 127.5),
    "tf-legacy": ("tf1", 128.0),
    "adm": ("tf1", 128.0),  # the same graph, under the name of the reference files it goes with
    "clean-fid": ("bicubic-antialias", 128.0),
}
ABOUT = {
    "pytorch-fid": "bilinear (half-pixel, no antialiasing) to 299; x8/127.5 - 1",
    "tf-legacy": "TF1 bilinear to 299; (x8 - 128)/128",
    "adm": "TF1 bilinear to 299; (x8 - 128)/128",
    "clean-fid": "PIL bicubic (antialiased, float, clipped) to 299; (x8 - 128)/128",
}


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation with stored statistics, ReLU."""

    features: int
    size: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        names = (None, None, None, "channels")
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", named(kernel_init, names), shape, jnp.float32)
        scale = self.param("scale", named(ones, names[-1:]), shape[-1:], jnp.float32)
        bias = self.param("bias", named(zeros, names[-1:]), shape[-1:], jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape[-1:])
        variance = self.variable("batch_stats", "var", jnp.ones, shape[-1:])
        factor = scale / jnp.sqrt(variance.value + EPSILON)
        padding = tuple((p, p) for p in self.padding)
        y = convolve(x, kernel, strides=self.stride, padding=padding)
        return nn.relu(y * factor + (bias - mean.value * factor))


def _max_pool(x: Array, stride: int = 2) -> Array:
    padding = ((1, 1), (1, 1)) if stride == 1 else ((0, 0), (0, 0))
    return nn.max_pool(x, (3, 3), (stride, stride), padding)  # pyright: ignore[reportArgumentType]


def _avg_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)  # pyright: ignore[reportArgumentType]


# Branches: (name, features, kernel, stride); a kernel of odd sides is padded unless stride is 2.
Step = tuple[str, int, tuple[int, int], int]


def _step(name: str, features: int, rows: int = 1, cols: int | None = None, stride: int = 1):
    return name, features, (rows, rows if cols is None else cols), stride


class Mixed(nn.Module):
    """Parallel chains of convolutions, concatenated; `pool` chooses the last branch.

    pool: "avg" or "max" with stride 1 and then a 1x1 convolution to `pool_features`; "stride": a
    maximum of stride 2 and nothing else. A chain may end in a pair of convolutions of the same
    input, whose outputs stand side by side.
    """

    branches: tuple[tuple[Step | tuple[Step, Step], ...], ...]
    pool: str
    pool_features: int = 0

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Returns the concatenation, and the first branch by itself."""
        outputs = [self._chain(x, branch) for branch in self.branches]
        first = outputs[0]
        if self.pool == "stride":
            outputs.append(_max_pool(x))
        else:
            pooled = _avg_pool(x) if self.pool == "avg" else _max_pool(x, 1)
            outputs.append(self._conv(pooled, _step("branch_pool", self.pool_features)))
        return jnp.concatenate(outputs, axis=-1), first  # pyright: ignore[reportReturnType]

    def _chain(self, x: Array, branch) -> Array:
        for step in branch:
            if isinstance(step[0], tuple):
                x = jnp.concatenate([self._conv(x, part) for part in step], axis=-1)
            else:
                x = self._conv(x, step)
        return x

    def _conv(self, x: Array, step: Step) -> Array:
        name, features, size, stride = step
        padding = (0, 0) if stride == 2 else (size[0] // 2, size[1] // 2)
        return ConvNorm(features, size, stride, padding, name=name)(x)


def _block_a(pool_features: int) -> dict:
    return {
        "branches": (
            (_step("branch1x1", 64),),
            (_step("branch5x5_1", 48), _step("branch5x5_2", 64, 5)),
            _double(64, 96, 1),
        ),
        "pool": "avg",
        "pool_features": pool_features,
    }


def _double(first: int, then: int, stride: int):
    return (
        _step("branch3x3dbl_1", first),
        _step("branch3x3dbl_2", then, 3),
        _step("branch3x3dbl_3", then, 3, stride=stride),
    )


def _block_c(c: int) -> dict:
    return {
        "branches": (
            (_step("branch1x1", 192),),
            (
                _step("branch7x7_1", c),
                _step("branch7x7_2", c, 1, 7),
                _step("branch7x7_3", 192, 7, 1),
            ),
            (
                _step("branch7x7dbl_1", c),
                _step("branch7x7dbl_2", c, 7, 1),
                _step("branch7x7dbl_3", c, 1, 7),
                _step("branch7x7dbl_4", c, 7, 1),
                _step("branch7x7dbl_5", 192, 1, 7),
            ),
        ),
        "pool": "avg",
        "pool_features": 192,
    }


def _pair(name: str):
    return (_step(f"{name}a", 384, 1, 3), _step(f"{name}b", 384, 3, 1))


def _block_e(pool: str) -> dict:
    return {
        "branches": (
            (_step("branch1x1", 320),),
            (_step("branch3x3_1", 384), _pair("branch3x3_2")),
            (
                _step("branch3x3dbl_1", 448),
                _step("branch3x3dbl_2", 384, 3),
                _pair("branch3x3dbl_3"),
            ),
        ),
        "pool": pool,
        "pool_features": 192,
    }


MIXED = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": {
        "branches": ((_step("branch3x3", 384, 3, stride=2),), _double(64, 96, 2)),
        "pool": "stride",
    },
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": {
        "branches": (
            (_step("branch3x3_1", 192), _step("branch3x3_2", 320, 3, stride=2)),
            (
                _step("branch7x7x3_1", 192),
                _step("branch7x7x3_2", 192, 1, 7),
                _step("branch7x7x3_3", 192, 7, 1),
                _step("branch7x7x3_4", 192, 3, stride=2),
            ),
        ),
        "pool": "stride",
    },
    "Mixed_7b": _block_e("avg"),
    "Mixed_7c": _block_e("max"),
}


class FIDInception(nn.Module):
    """The feature network of FID, sFID, IS and KID; frozen, float32."""

    protocol: str = option(
        "pytorch-fid", "how uint8 pixels reach the network: pytorch-fid, tf-legacy, adm, clean-fid"
    )
    classes: int = option(1008, "outputs of the last layer")

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {self.protocol!r}; choose one of {sorted(PROTOCOLS)}")
        super().__post_init__()

    def prepare(self, images: Array) -> Array:
        """Returns the network's input [b, 299, 299, 3] of uint8 images [b, h, w, 1 or 3]."""
        x = images.astype(jnp.float32)
        if x.shape[-1] == 1:
            x = jnp.repeat(x, 3, axis=-1)
        kind, divisor = PROTOCOLS[self.protocol]
        x = resize(x, SIZE, SIZE, kind)
        if kind.startswith("bicubic"):
            x = jnp.clip(x, 0.0, 255.0)
        return x / 127.5 - 1.0 if divisor == 127.5 else (x - 128.0) / 128.0

    @nn.compact
    def __call__(self, images: Array) -> dict[str, Array]:
        """Returns float32 features of uint8 images [b, h, w, c], grey ones repeated to three.

        pool3 [b, 2048]; block0 [b, 64], block1 [b, 192], block2 [b, 768]: spatial means of the
        earlier blocks; spatial [b, 2023]: seven channels of Mixed_6d's first branch, for sFID;
        logits [b, 1008], and logits_unbiased: without the last layer's bias, for the Inception
        Score. What is not used costs nothing under jit.
        """
        x = self.prepare(images)
        x = ConvNorm(32, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, (3, 3), padding=(1, 1), name="Conv2d_2b_3x3")(x)
        x = _max_pool(x)
        out = {"block0": x.mean((1, 2))}
        x = ConvNorm(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = ConvNorm(192, (3, 3), name="Conv2d_4a_3x3")(x)
        x = _max_pool(x)
        out["block1"] = x.mean((1, 2))
        for name, fields in MIXED.items():
            x, first = Mixed(**fields, name=name)(x)
            if name == "Mixed_6d":
                out["spatial"] = first[..., :SPATIAL].reshape(len(first), -1)  # pyright: ignore[reportArgumentType]
            if name == "Mixed_6e":
                out["block2"] = x.mean((1, 2))
        out["pool3"] = pool3 = x.mean((1, 2))
        unbiased = Linear((self.classes,), ("embed", "classes"), use_bias=False, name="fc")(pool3)
        bias = self.param("fc_bias", named(zeros, ("classes",)), (self.classes,), jnp.float32)
        return {**out, "logits_unbiased": unbiased, "logits": unbiased + bias}
