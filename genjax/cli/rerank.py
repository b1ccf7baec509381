"""A trained CoCa as a judge of pictures: the score by which the best candidate is kept."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.checkpoint import Checkpoints, Workdir
from genjax.cli.schema import build_run, expand_run
from genjax.cli.workdir import read_config
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
    config = read_config(Workdir(path))
    if config is None:
        raise UserError(f"--rerank: {path} has no config.json; give the workdir of a trained CoCa")
    run = build_run(expand_run(config))
    text = run.data["main"].text
    if not isinstance(run.task, Captioner) or text is None:
        raise UserError(f"--rerank: {path} holds a {config['task']['name']}; give a CoCa's workdir")
    params, _ = Checkpoints(path).restore_params(next(iter(run.ema), "raw"))
    return Scorer(run.task, params["model"], text.open())
