"""Train a model from a config; a second call on the same workdir resumes.

Every key of the config can be given as --config.a.b=VALUE; --help-config lists them.
"""

import argparse
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from genjax.core.errors import UserError

HELP = "train a model from a config (a second call on the same workdir resumes)"
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="FILE.py or FILE.py:ARGUMENT")
    parser.add_argument("--workdir", help="folder of the run (also gs://...)")
    parser.add_argument("--help-config", action="store_true", help="list every key of a config")


def run(args: argparse.Namespace) -> int:
    """Trains until the config's images have been seen; returns 0."""
    from genjax.cli import schema
    from genjax.cli.config import must_have, read_file, resolve

    if args.help_config:
        print("\n".join(schema.describe()))
        return 0
    must_have(args, "config", "workdir")
    full = resolve(read_file(args.config), args.overrides, schema.expand_run)
    train(schema.build_run(full), full, args.workdir, args.argv)
    return 0


def train(run: Any, full: Mapping, path: str, flags: Sequence[str] = ()) -> Any:
    """Returns the final state of `run`, trained in (or continued from) the workdir `path`.

    `full`: the resolved config that `run` was built from; `flags`: what is noted of the command
    line. Raises `UserError` before anything is
    written where data, mesh, weights or workdir do not fit.
    """
    from clu import parameter_overview

    from genjax.checkpoint import Checkpoints, Workdir, report_once
    from genjax.cli import hooks, streams
    from genjax.cli.frozen import read_frozen
    from genjax.cli.workdir import write_config
    from genjax.core.tree import size
    from genjax.parallel import initialize
    from genjax.training.loop import Loop
    from genjax.training.loop import train as train_loop
    from genjax.training.state import unboxed

    initialize()
    logging.basicConfig(format="%(message)s")
    report_once()
    params = _shapes(run)
    mesh, workdir = run.mesh.build(), Workdir(path)
    begun = Checkpoints(workdir).latest() is not None
    changed = _refuse_changes(workdir, full) if begun else []
    opened = streams.open_sources(run)
    streams.check(run, opened)
    frozen, record = read_frozen(run.task)
    start = None
    if run.init and not begun:
        from genjax.cli.warm_start import warm_start

        start = warm_start(run)  # reads the weights now: a wrong file is found before any writing

    def begin() -> None:
        if not begun:
            streams.first_batch(run, opened, workdir)
        overview = parameter_overview.get_parameter_overview(unboxed(params), include_stats=False)
        workdir.write("parameters.txt", f"{overview}\n".encode())
        write_config(
            workdir,
            full,
            changed=changed,
            flags=flags,
            params=size(params),
            mesh=mesh.shape,
            frozen=record,
        )

    return train_loop(
        Loop(
            task=run.task,
            workdir=workdir,
            seed=run.seed,
            batch={name: s.batch for name, s in run.data.items()},
            open_streams=streams.opener(run, opened, mesh),
            optimizers=run.optimizer,
            emas=run.ema,
            mesh=mesh,
            rules=run.rules,
            train=run.train,
            checkpoint=run.checkpoint,
            log=run.log,
            hooks=hooks.of(run, full, mesh, opened),
            frozen=frozen,
            config=full,
            warm_start=start,
            begin=begin,
        )
    )


def _shapes(run: Any) -> Any:
    """Returns the parameters' shapes; raises `UserError` where the network does not fit."""
    import jax

    from genjax.core import keys

    try:
        return jax.eval_shape(lambda: run.task.init(keys.key(0, "init")))["params"]
    except ValueError as error:
        raise UserError(f"config.task.model: {error}") from error


def _refuse_changes(workdir: Any, full: Mapping) -> list[str]:
    """Returns (and prints) what has changed and may; raises `UserError` for what may not."""
    import jax

    from genjax.cli.schema import expand_run
    from genjax.cli.workdir import changes, read_config

    old = read_config(workdir)
    if old is None:
        raise UserError(
            f"{workdir.path}: has checkpoints but no config.json; restore that file, or give "
            "another --workdir"
        )
    with contextlib.suppress(UserError):  # keys that genjax has gained since have their defaults
        old = expand_run(old)
    refused, allowed = changes(old, full)
    if refused:
        raise UserError(
            f"{workdir.path}: this workdir holds another run: {'; '.join(refused)}. Give another "
            "--workdir, or the config that it was begun with"
        )
    if jax.process_index() == 0:
        for line in allowed:
            print(f"changed since the run began: {line}")
    return allowed
