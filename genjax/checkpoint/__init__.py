"""Saving and restoring runs: `store` is the only importer of orbax, `workdir` a run's files."""

from genjax.checkpoint.checkpoints import Checkpoints, Retention
from genjax.checkpoint.store import SaveFailed
from genjax.checkpoint.workdir import Workdir

__all__ = ["Checkpoints", "Retention", "SaveFailed", "Workdir"]
