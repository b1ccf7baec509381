"""Pictures of prompts: several candidates of each, of which a reranker keeps the best."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genjax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Drawn:
    """`images` uint8 [n, h, w, c], one a prompt; `scores` float32 [n, candidates], None: none.

    `kept` int [n]: which candidate an image is.
    """

    images: np.ndarray
    scores: np.ndarray | None
    kept: np.ndarray


def draw(
    model: Any,
    prompts: Sequence[str],
    *,
    candidates: int = 1,
    scorer: Any = None,
    guidance: float | None = None,
    decoding: Mapping[str, float] | None = None,
    seed: int = 0,
    batch: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Drawn:
    """Returns one picture a prompt: of `candidates` the one that `scorer` likes best.

    Candidate c of prompt i is sample i candidates + c, whatever the batch. `decoding`: temperature,
    top_k and top_p in place of the config's. `advance(n)` is told of n samples made.

    Raises `UserError` for a model without text, no prompts, or several candidates
    and nobody to choose.
    """
    tokens = tokens_of(model, prompts)
    if candidates < 1:
        raise UserError(f"--candidates: must be at least 1, not {candidates}")
    if candidates > 1 and scorer is None:
        raise UserError("--candidates: give a --rerank RUN, which chooses the best of them")
    total = len(prompts) * candidates
    generator = model.generator(total, guidance=guidance, decoding=decoding, batch=batch)
    parts = generator(
        model.params,
        model.frozen,
        num=total,
        labels=None,
        seed=seed,
        given={"tokens": np.repeat(tokens, candidates, axis=0)},
    )
    scores = np.full(total, -np.inf, np.float32)
    images: dict[int, np.ndarray] = {}
    kept = [0] * len(prompts)
    start = 0
    for part, _ in parts:
        index = np.arange(start, start + len(part))
        if scorer is not None:
            scores[index] = scorer(part, [prompts[i // candidates] for i in index.tolist()])
        for i, image in zip(index.tolist(), part):
            prompt, candidate = divmod(i, candidates)
            if candidate == 0 or scores[i] > scores[prompt * candidates + kept[prompt]]:
                images[prompt], kept[prompt] = image, candidate
        start += len(part)
        advance(len(part))
    table = None if scorer is None else scores.reshape(len(prompts), candidates)
    return Drawn(np.stack([images[i] for i in range(len(prompts))]), table, np.array(kept))


def tokens_of(model: Any, prompts: Sequence[str]) -> np.ndarray:
    """Returns the prompts' ids int32 [n, s]; raises `UserError` for a model without text."""
    if model.text is None:
        said = repr(prompts[0]) if len(prompts) else "prompts"
        raise UserError(f"this model is not conditioned on text, so it cannot draw {said}")
    if not len(prompts):
        raise UserError("no prompts are given; write one a line")
    return model.text.encode_batch(list(prompts))


def captions_of(reference: Any, num: int) -> list[str]:
    """Returns the first captions of a `genjax.evaluation.Reference`, as prompts.

    Raises `UserError` where it has none.
    """
    known = None if reference.images is None else reference.images.captions
    if known is None:
        raise UserError(
            f"--reference: {reference.name} has no captions, which this model takes as prompts; "
            "name a data set that has, or draw with `genjax sample` and give --samples"
        )
    return [str(caption) for caption in known[:num]]
