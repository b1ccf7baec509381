"""Scans over blocks: what a block keeps for its backward pass, and how many are unrolled."""

from collections.abc import Callable

import flax.linen as nn
import jax

from genjax.parallel.rules import platform

POLICIES: dict[str, Callable | None] = {
    # Keep only the block's input, recompute all of it.
    "full": None,
    # Keep every matrix product, recompute norms, activations and modulation.
    "dots": jax.checkpoint_policies.dots_saveable,
    # Keep products with weights, recompute attention's products (of tokens with tokens) as well.
    "weights": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
NAMES = ("none", *POLICIES)


def check(name: str) -> str:
    """Returns `name`; raises `ValueError` if there is no such policy."""
    if name not in NAMES:
        raise ValueError(f"remat: {name!r} is no policy; choose one of {', '.join(NAMES)}")
    return name


def remat(block: type, name: str, *, scanned: bool = True) -> type:
    """Returns the Flax module class `block` under the policy; "none" keeps every activation.

    `scanned`: whether a scan stands around the block. The loop keeps XLA from merging the forward
    pass and its repetition (which would undo the policy); elsewhere a barrier has to.
    """
    if check(name) == "none":
        return block
    return nn.remat(block, policy=POLICIES[name], prevent_cse=not scanned)


def unrolled(setting: int, length: int) -> int:
    """Returns how many of `length` convolutional blocks one iteration of their scan holds.

    `setting` 0: all of them on a CPU, where XLA runs the gradients of convolutions inside a loop
    eight times slower than outside; one by one elsewhere, which compiles in a fraction of the time.
    """
    if setting == 0:
        return length if platform() == "cpu" else 1
    return min(setting, length)
