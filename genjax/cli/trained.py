"""Runs of `genjax train` whose networks another command reads, and their parameters."""

from collections.abc import Iterable
from typing import Any

from genjax.checkpoint import Checkpoints, Workdir
from genjax.cli.schema import build_run, expand_run
from genjax.cli.workdir import read_config
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.training.ema import Power
from genjax.training.posthoc import gamma_of, profile, reconstruct


def open_run(path: str, flag: str, kind: type, wanted: str) -> Any:
    """Returns the run of a workdir, whose task is a `kind`.

    Raises `UserError`, naming `flag` and what is `wanted`, where there is none or another task.
    """
    config = read_config(Workdir(path))
    if config is None:
        raise UserError(f"{flag}: {path} has no config.json; give {wanted}")
    run = build_run(expand_run(config))
    if not isinstance(run.task, kind):
        raise UserError(f"{flag}: {path} holds a {config['task']['name']}; give {wanted}")
    return run


def default_ema(emas: Iterable[str]) -> str:
    """Returns the average that is used unless another is asked for: the first, or "raw"."""
    return next(iter(emas), "raw")


def read_params(path: str, run: Any, ema: str) -> tuple[dict[str, Tree], int]:
    """Returns {network: parameters} of a workdir's newest checkpoint, and its step.

    `ema`: "raw", an EMA's name, or "posthoc:WIDTH", the power-function EMA of that relative width
    put together from the snapshots in ema/ (EDM2, section 3).
    """
    checkpoints = Checkpoints(path)
    if not ema.startswith("posthoc:"):
        params, meta = checkpoints.restore_params(ema)
        return params, meta["step"]
    try:
        width = float(ema.removeprefix("posthoc:"))
        gamma_of(width)
    except ValueError as error:
        raise UserError(
            f"--ema: {ema!r}: {error}; write posthoc:WIDTH, such as posthoc:0.1"
        ) from error
    laws = {name: law for name, law in run.ema.items() if isinstance(law, Power)}
    taken = checkpoints.snapshots()
    if not laws or not taken:
        raise UserError(
            f"--ema: {path} has no snapshots of power-function EMAs; train with an EMA named "
            '"power" and checkpoint.ema_every_images'
        )
    where = {
        law.profile(images): (step, name)
        for step, images in taken.items()
        for name, law in laws.items()
    }
    trees = ((p, checkpoints.read_snapshot(*key)) for p, key in where.items())
    newest = max(taken)
    return reconstruct(trees, list(where), profile(width, taken[newest])), newest
