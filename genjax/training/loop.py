"""The one training loop.

    run = Loop(task, workdir, seed, batch, open_streams, optimizers, emas, mesh, rules, ...)
    state = train(run)

`train` starts a run or continues the one that it finds in the workdir, and returns the final
state. It raises `UserError` (wrong input), `Diverged` (non-finite values), `SaveFailed` (a
checkpoint could not be written) and, after SIGTERM, once it has saved, `SystemExit(143)`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genjax.checkpoint import Checkpoints, Retention, Workdir
from genjax.core.arrays import Tree
from genjax.core.errors import Diverged, UserError
from genjax.core.tree import size
from genjax.core.types import Task, TrainState
from genjax.parallel import Rules, heartbeat, to_global
from genjax.training import guard
from genjax.training.hooks import Hook, Moment, due_hooks
from genjax.training.meter import Meter
from genjax.training.program import PASSES, program, streams_read
from genjax.training.settings import CheckpointSettings, LogSettings, TrainSettings, due
from genjax.training.state import (
    acting,
    consumed,
    optimizer_of,
    place_frozen,
    restart,
)
from genjax.training.stopping import EXIT_CODE, Stopping
from genjax.training.throughput import Chrono, Throughput, note
from genjax.training.trace import Trace
from genjax.training.writers import check_writers, open_writers


@dataclasses.dataclass(frozen=True)
class Loop:
    """A run, ready to be trained.

    `batch`: stream -> global batch size; the streams are the task's, the first one's images count.
    `open_streams`: stream -> images of it already consumed, to stream -> iterator over this
    process's rows (field -> NumPy [b / processes, ...]); iterators with `close` are closed.
    `optimizers`: by player (or as players name them); `emas`: name -> decay law.
    `config`: JSON that is kept in every checkpoint.
    `warm_start`: the initial parameters (network -> tree) to those that replace them, for some
    networks; called only where a run begins.
    `hooks`: see `hooks.py`; they run in this order, before a checkpoint of the same moment.
    `begin`: called on process 0 when the input has been found right, before anything is written.
    `frozen`: the networks that nobody trains (None: what the task's own `load_frozen` reads).
    """

    task: Task
    workdir: Workdir
    seed: int
    batch: Mapping[str, int]
    open_streams: Callable[[dict[str, int]], Mapping[str, Iterator[Mapping[str, np.ndarray]]]]
    optimizers: Mapping[str, Any]
    emas: Mapping[str, Any]
    mesh: Mesh
    rules: Rules = dataclasses.field(default_factory=Rules)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    log: LogSettings = dataclasses.field(default_factory=LogSettings)
    hooks: tuple[Hook, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warm_start: Callable[[dict[str, Tree]], Mapping[str, Tree]] | None = None
    begin: Callable[[], None] = lambda: None
    frozen: Mapping[str, Tree] | None = None


def train(run: Loop) -> TrainState:
    """Returns the state after `run.train.images` images; see the module for what it raises."""
    began = time.time()
    task, mesh, rules, players = run.task, run.mesh, run.rules, run.task.players
    check_writers(run.log)
    plan = program(task, run.optimizers, run.emas, run.train, run.batch, mesh, rules)
    abstract = plan.abstract
    main, total_images = next(iter(task.streams)), run.train.images
    batch_size = run.batch[main]
    total_steps = -(-total_images // batch_size)

    # --- state: restored from the newest checkpoint, or born sharded --------------------------

    keep = run.checkpoint
    retention = Retention(
        keep.keep_last, keep.keep_every_images, keep.keep_best, keep.best_metric, keep.best_mode
    )
    checkpoints = Checkpoints(run.workdir, retention)
    restored = checkpoints.restore(abstract)
    if restored is not None:
        state, record = restored
        step, images, seconds = record["step"], record["images"], record["seconds"]
        origin = f"resumed from step {step:,} ({images:,} images)"
        if images != step * batch_size:
            raise UserError(
                f"{run.workdir.path}: its {images:,} images in {step:,} steps are not of batch "
                f"{batch_size}; resume with the batch size that it was begun with"
            )
    else:
        record: dict[str, Any] = {}
        state, step, images, seconds = plan.init(np.uint32(run.seed)), 0, 0, 0.0
        origin = "started"
        if run.warm_start is not None:
            state = restart(state, run.warm_start(state.params))
    given = task.load_frozen() if run.frozen is None else run.frozen
    frozen = place_frozen(given, mesh, rules)

    # --- the step, traced before anything is written: what does not fit shows here -------------

    seed, total = np.uint32(run.seed), np.uint32(total_images)
    first = acting(players, step)
    one_step = plan.step(first)
    jax.eval_shape(one_step, *plan.arguments(first, frozen))

    # --- data, from where the state stands -----------------------------------------------------

    read = {s: consumed(players, s, s == main, step) * run.batch[s] for s in task.streams}
    streams = run.open_streams(read)
    if jax.process_index() == 0:
        run.workdir.create()
        run.begin()
        began = note(run.workdir, "began", step, began)

    # --- what happens beside the steps ---------------------------------------------------------

    writers = open_writers(
        run.workdir,
        run.log,
        process=jax.process_index(),
        step=step,
        images=images,
        total_images=total_images,
        config=run.config,
    )
    writers.say(
        f"{origin}: {size(state.params):,} parameters, {mesh.size} x "
        f"{mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}"
    )
    chrono = Chrono(seconds)
    speed = Throughput(chrono, images, total_images, PASSES * task.forward_flops(), mesh, began)
    trace = Trace(run.workdir, run.log.trace)
    layout: dict[str, Tree] = {}
    by_name = {p.name: p for p in players}

    def name_of(player: str, index: int) -> str:
        p = by_name[player]
        trained = {net: abstract.params[net] for net in p.trains}
        inputs = {s: layout[s] for s in p.streams}
        return guard.names(inputs, trained, abstract.mutable, trained)[index]

    meter = Meter(run.train.run_ahead, name_of, record.get("sums", {}))
    known: dict[str, tuple[int, float]] = {}  # metric -> step and value, for keep_best

    def log(*, newest: bool) -> None:
        meter.collect(newest=newest)
        rates = {
            _label("learning_rate", optimizer_of(p), players): float(
                run.optimizers[optimizer_of(p)].rate(np.float64(images), float(total_images))
            )
            for p in players
        }
        averages = meter.take()
        known.update({name: (step, value) for name, value in averages.items()})
        line = {"step": step, "images": images, "seconds": chrono.seconds()}
        writers.write({**line, **averages, **rates, **speed.measure(images)})

    def save() -> None:
        bad = guard.bad_parameter(state.params)
        if bad is not None:
            raise Diverged(f'step {step} (image {images:,}): "params/{bad}" is not finite')
        writers.flush()
        about = {
            "config": run.config,
            "versions": {p: metadata.version(p) for p in ("jax", "flax", "optax")},
            "batch": dict(run.batch),
            "seconds": chrono.seconds(),
            "sums": meter.sums(),
        }
        # A checkpoint is judged by what was measured of it, not of an earlier step.
        fresh = {name: value for name, (at, value) in known.items() if at == step}
        checkpoints.save(state, step=step, images=images, meta=about, metrics=fresh)

    # --- the loop ------------------------------------------------------------------------------

    steps: dict[tuple[str, ...], Callable] = {tuple(p.name for p in first): one_step}
    compiled: set[tuple[str, ...]] = set()
    with contextlib.ExitStack() as closing:
        closing.callback(checkpoints.close)
        closing.callback(writers.close)
        closing.callback(trace.close)
        for stream in streams.values():
            closing.callback(getattr(stream, "close", lambda: None))
        stopping = closing.enter_context(Stopping())
        beat = closing.enter_context(heartbeat.Heartbeat(run.train.heartbeat))

        @contextlib.contextmanager
        def aside() -> Iterator[None]:
            with chrono.pause(), beat.aside():
                yield

        stop = False
        while step < total_steps and not stop:
            now = acting(players, step)
            beat.at(step + 1, heartbeat.DATA)
            rows = {s: dict(next(streams[s])) for s in streams_read(task, now)}
            beat.at(step + 1, heartbeat.STEP)
            batch = to_global(rows, mesh, rules)
            layout.update({s: jax.eval_shape(lambda b: b, batch[s]) for s in batch.keys() - layout})
            trace.before_step(images)
            names = tuple(p.name for p in now)
            if names not in steps:
                steps[names] = plan.step(now)
            # Compiling is no part of the rate.
            with contextlib.nullcontext() if names in compiled else aside():
                state, report = steps[names](state, frozen, batch, seed, total)
            compiled.add(names)
            before, step, images = images, step + 1, images + batch_size
            meter.add(step, images, report)

            last, passed = step == total_steps, partial(due, before=before, after=images)
            stop = stopping.wanted(step)
            if passed(run.log.every_images) or last or stop:
                log(newest=last or stop)
            for hook in due_hooks(run.hooks, passed, last) if not stop else []:
                meter.collect(newest=True)
                with aside():
                    moment = Moment(step, images, state, frozen, run.workdir, mesh, rules)
                    found = hook.run(moment)
                if found:
                    known.update({name: (step, value) for name, value in found.items()})
                    line = {"step": step, "images": images, "seconds": chrono.seconds()}
                    writers.write({**line, **found})
            snapped = passed(run.checkpoint.ema_every_images) and bool(run.emas)
            saved = passed(run.checkpoint.every_images) or last or stop
            if snapped or saved:
                meter.collect(newest=True)  # nothing that is not finite is ever saved
                with aside():
                    if snapped:
                        about = {"config": run.config}
                        checkpoints.snapshot(state.ema, step=step, images=images, meta=about)
                    if saved:
                        save()
        with aside():
            checkpoints.wait()
            if not stop and jax.process_index() == 0:
                note(run.workdir, "ended", step, time.time())
        if stop:
            writers.say(f"stopped by SIGTERM; saved step {step:,} ({images:,} images)")
            raise SystemExit(EXIT_CODE)
        writers.say(f"done: step {step:,}, {images:,} images")
    return state


def _label(name: str, player: str, players: tuple) -> str:
    """Returns a metric's name: with the player's before it, where there are several."""
    return name if len(players) == 1 else f"{player}/{name}"
