"""A trained CoCa as a judge of pictures: the score by which the best candidate is kept."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.cli.trained import default_ema, open_run, read_params
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.tasks import Captioner


@dataclasses.dataclass(frozen=True)
class Scorer:
    """`scorer(images uint8 [b, h, w, c], texts) -> float32 [b]`: larger fits better."""

    task: Any
    params: Tree
    text: Any

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        tokens = self.text.encode_batch(list(texts))
        return np.asarray(self._scores(self.params, jnp.asarray(images), jnp.asarray(tokens)))

    @cached_property
    def _scores(self) -> Any:
        return jax.jit(self.task.scores)


def open_scorer(path: str) -> Scorer:
    """Returns the scorer of a workdir of `genjax train`, by the first average of its config.

    Raises `UserError` where there is no CoCa.
    """
    run = open_run(path, "--rerank", Captioner, "the workdir of a trained CoCa")
    text = run.data["main"].text
    if text is None:
        raise UserError(f"--rerank: {path} was trained without a text model; give another CoCa")
    params, _ = read_params(path, run, default_ema(run.ema))
    return Scorer(run.task, params["model"], text.open())
