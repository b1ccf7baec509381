"""What tasks with a generator of pictures share: the discriminator's players, LPIPS."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from genjax import weights
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.types import Player, View
from genjax.objectives.gan import DISCRIMINATOR, Adversary, Discriminate

_log = logging.getLogger("genjax")


def check_discriminator(discriminator: Any, image: tuple[int, ...]) -> None:
    """Raises `ValueError` for a network that judges no images of this shape (None: nothing)."""
    if discriminator is None:
        return
    if not hasattr(discriminator, "resolutions"):
        raise ValueError(f"discriminator: a {type(discriminator).__name__} is none")
    discriminator.resolutions(*image[:2])


def judge(discriminator: Any) -> Discriminate:
    """Returns (networks, images in [0, 1]) -> the discriminator's logits [b]."""

    def logits(networks: Mapping[str, Tree], x: Array) -> Array:
        return discriminator.apply({"params": networks[DISCRIMINATOR]}, 2.0 * x - 1.0)

    return logits


def rivals(
    adversary: Adversary,
    discriminator: Any,
    pixels: Callable[[Mapping[str, Array]], Array],
    made: Callable[[View, Array], Array],
) -> tuple[Player, ...]:
    """Returns the players "discriminator" and, with R1, "r1", which shares its optimiser.

    `pixels(stream)`: real images; `made(view, x)`: the generator's.
    """
    loss = partial(adversary.loss, pixels, made, judge(discriminator))
    player = Player(DISCRIMINATOR, (DISCRIMINATOR,), loss)
    if not adversary.r1:
        return (player,)
    # A gradient of a gradient loses too much in bfloat16.
    exact = judge(discriminator.clone(dtype="float32"))
    penalty = partial(adversary.penalty, pixels, exact)
    every = adversary.r1_every
    return (
        player,
        Player("r1", (DISCRIMINATOR,), penalty, every=every, optimizer=DISCRIMINATOR),
    )


def open_lpips(path: str) -> tuple[Any, dict[str, Tree]]:
    """Returns (LPIPS, its variables) of a file; raises `UserError` naming `task.lpips`."""
    try:
        return weights.load("lpips", path)
    except UserError as error:
        raise UserError(f"task.lpips: {error}") from error


def notice_without(weight: float) -> None:
    """Says in the log that the perceptual loss of this weight is off for want of a file."""
    if weight and jax.process_index() == 0:
        _log.warning(
            "task.lpips: no weights are given, so the perceptual loss (weight %g) is off", weight
        )
