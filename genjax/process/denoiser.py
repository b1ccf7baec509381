"""The denoiser: every model of the library as an estimate of the data, D(x, t, cond)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree, bcast
from genjax.core.errors import UserError
from genjax.core.types import pytree
from genjax.process.gaussian import Process
from genjax.process.precond import Precond


@pytree
class Output:
    """One evaluation: `x0` the estimate of the data, `raw` the network's F, both float32 [b, ...].

    `variance`: the second half of the channels of a learned-range network, else None;
    `features`: the intermediate features that were asked for, by name, else None.
    """

    x0: Array
    raw: Array
    variance: Array | None = None
    features: dict[str, Array] | None = None


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """D(x, t, cond) = c_skip x + c_out F(c_in x, c_noise), coefficients in float32.

    `apply(params, x, time, cond, *, train, key, inputs, features)` is the raw network; it returns
    F with x's channels or twice as many (then the second half is the reverse variance's weight), or
    (F, named features) when features are asked for. Raises `UserError` if the precond has no
    meaning for the process.
    """

    process: Process
    precond: Precond
    apply: Callable[..., Any]

    def __post_init__(self):
        self.precond.check(self.process)

    def __call__(
        self,
        params: Tree,
        x: Array,
        t,
        cond=None,
        *,
        key: Array | None = None,
        train: bool = False,
        inputs: Mapping[str, Array] | None = None,
        features: Sequence[str] = (),
    ) -> Output:
        """Returns the estimate for x [b, ..., c] at time t (scalar or [b]).

        `cond`: dict of arrays, None, or integer labels [b]; `key`: for the network's dropout;
        `inputs`: further network inputs (skip scales, masks); `features`: names to return.
        """
        x = jnp.asarray(x, jnp.float32)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
        if cond is not None and not isinstance(cond, Mapping):
            cond = {"label": jnp.asarray(cond)}
        process, precond = self.process, self.precond
        result = self.apply(
            params,
            bcast(precond.c_in(process, t), x) * x,
            precond.c_noise(process, t),
            cond,
            train=train,
            key=key,
            inputs=inputs,
            features=features,
        )
        out, named = result if features else (result, None)
        out, variance = _split(out.astype(jnp.float32), x.shape)
        x0 = bcast(precond.c_skip(process, t), x) * x + bcast(precond.c_out(process, t), x) * out
        return Output(x0, out, variance, named)


def _split(out: Array, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Returns (F, variance or None) of a network's output for an input of `shape`."""
    channels = shape[-1]
    if out.shape == shape:
        return out, None
    if out.shape == (*shape[:-1], 2 * channels):
        return out[..., :channels], out[..., channels:]
    raise UserError(
        f"the network returned {out.shape} for an input of {shape}; its output must have the "
        f"input's shape, with {channels} or {2 * channels} channels"
    )
