"""Rematerialisation policies by name: what a scanned block keeps for its backward pass."""

from collections.abc import Callable

import flax.linen as nn
import jax

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
