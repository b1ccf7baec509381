"""One process of a toy run: worker_train.py WORKDIR STEPS [kill=STEP | damaged=STEP].

Process 1 gets SIGTERM in the step `kill`, or cannot read its part of the checkpoint `damaged`.

Prints the exit code, the final step and a sum over the parameters.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from genjax.parallel import initialize

initialize()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import loop_toys  # noqa: E402

from genjax.checkpoint import store  # noqa: E402
from genjax.training.hooks import Hook  # noqa: E402
from genjax.training.loop import train  # noqa: E402


def main():
    workdir, steps = sys.argv[1], int(sys.argv[2])
    what, _, number = sys.argv[3].partition("=") if len(sys.argv) > 3 else ("", "", "")
    kill_at = int(number) if what == "kill" else None
    if what == "damaged" and jax.process_index() == 1:
        load = store.Store.load

        def broken(self, step, *args):
            if step == int(number):
                raise store.Damaged("its part is gone")
            return load(self, step, *args)

        store.Store.load = broken
    seen = {"step": 0}

    def hook(moment):
        seen["step"] = moment.step
        if kill_at is None:
            return
        if moment.step == kill_at and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if moment.step >= kill_at:
            time.sleep(0.25)  # as long as a step of a real run may take

    mesh = loop_toys.mesh(jax.device_count(), data=-1, fsdp=2)
    run = loop_toys.run_of(
        workdir, steps=steps, mesh=mesh, hooks=(Hook("hook", loop_toys.BATCH, hook),)
    )
    code, total = 0, None
    try:
        state = train(run)
        total = float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(state.params)))
    except SystemExit as stop:
        code = stop.code
    print(json.dumps({"code": code, "step": seen["step"], "total": total}), flush=True)


main()
