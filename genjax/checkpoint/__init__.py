"""Saving and restoring runs: `store` is the only importer of orbax, `workdir` a run's files."""

from genjax.checkpoint.checkpoints import Checkpoints, Retention
from genjax.checkpoint.store import report_once
from genjax.checkpoint.workdir import Workdir
from genjax.core.errors import SaveFailed

__all__ = ["Checkpoints", "Retention", "SaveFailed", "Workdir", "report_once"]
