"""Networks that a run reads and never trains, from workdirs of `genjax train` too.

Tasks read files of weights themselves; a workdir's checkpoint is what only the command line opens.
"""

import dataclasses
from typing import Any

from genjax.cli.trained import default_ema, open_run, read_params
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.evaluation.extractors import tree_hash
from genjax.tasks import Tokenizer
from genjax.tasks.image_codes import TokenizerCodec
from genjax.weights import native


def load_frozen(task: Any) -> dict[str, Tree]:
    """Returns the task's frozen networks; its tokenizer may be the workdir that trained it.

    Raises `UserError` where the path holds no tokenizer, or another one than the config says.
    """
    return read_frozen(task)[0]


def read_frozen(task: Any) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Returns (the task's frozen networks, path, format and hash of where they are from).

    Every process calls it: reading a checkpoint is a thing that all do together.
    """
    codec = getattr(task, "codec", None)
    if not isinstance(codec, TokenizerCodec) or not codec.path or native.is_native(codec.path):
        owner = task if codec is None else codec
        return task.load_frozen(), owner.record() if hasattr(owner, "record") else {}
    module, variables, step = read_tokenizer(codec.path)
    codec.check(module)
    record = {"path": codec.path, "format": "workdir", "step": step}
    return task.load_frozen(variables), {**record, "sha256": tree_hash(variables)}


def read_tokenizer(path: str, flag: str = "task.codec.path") -> tuple[Any, dict[str, Tree], int]:
    """Returns (network, its variables, the step) of a trained tokenizer's workdir or folder.

    The weights are the first average of the run's config. A converted folder has step 0.
    """
    if native.is_native(path):
        module, variables, _ = native.read_native(path)
        return module, variables, 0
    run = open_run(path, flag, Tokenizer, "a tokenizer's workdir, or a folder of weights")
    params, step = read_params(path, run, default_ema(run.ema))
    return run.task.model, run.task.variables(params), step


def with_tokenizer(task: Any, path: str) -> Any:
    """Returns the task with the tokenizer at `path`, whatever sizes its decoder has.

    Raises `UserError` for a task without codes, and for a tokenizer of other codes.
    """
    codec = getattr(task, "codec", None)
    if not isinstance(codec, TokenizerCodec):
        raise UserError("--tokenizer: this model makes no codes; leave it out")
    module, _, _ = read_tokenizer(path, "--tokenizer")
    other = dataclasses.replace(codec, path=path, model=module)
    if (other.size, other.grid) != (codec.size, codec.grid):
        raise UserError(
            f"--tokenizer: {path} has {other.size} codes on a grid {other.grid}, but the model "
            f"makes {codec.size} on {codec.grid}; give the one that it was trained with"
        )
    return dataclasses.replace(task, codec=other)
