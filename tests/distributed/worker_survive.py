"""One process of a toy run to which something happens: worker_survive.py WORKDIR STEPS JSON.

JSON: `process` and `step` say where what `fault` names happens, in reading the batch of that step:
"kill", "freeze" and "term" are signals to itself; "sleep" waits for ever; "nan" poisons its rows;
"full" lets its files grow no more. It waits for the checkpoint of step `saved`, which is written in
the background. `heartbeat`, `fsdp`: settings of the run.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from genjax.parallel import initialize

initialize()

import jax  # noqa: E402
import loop_toys  # noqa: E402

from genjax.checkpoint import SaveFailed  # noqa: E402
from genjax.core.errors import Diverged  # noqa: E402
from genjax.training.loop import train  # noqa: E402
from genjax.training.settings import CheckpointSettings, LogSettings, TrainSettings  # noqa: E402

SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "term": signal.SIGTERM}


class Faulty(loop_toys.Stream):
    fault, at, saved = "", -1, Path()

    def __next__(self):
        rows = super().__next__()
        step = self.position // self.batch
        if self.fault == "term" and step >= self.at:
            time.sleep(1)  # as long as a step of a real run may take
        if step != self.at:
            return rows
        while not self.saved.exists():
            time.sleep(0.05)
        if self.fault in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.fault])
        elif self.fault == "sleep":
            time.sleep(3600)
        elif self.fault == "nan":
            rows["x"][0, 0] = float("nan")
        elif self.fault == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        return rows


def main() -> int:
    workdir, steps, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    if options.get("process") == jax.process_index() or options.get("fault") == "term":
        Faulty.at = options["step"]
        Faulty.fault = options["fault"]
        if options["saved"]:
            Faulty.saved = Path(workdir, "checkpoints", str(options["saved"]))
        if options["process"] != jax.process_index():
            SIGNALS["term"] = signal.SIGCONT  # slow like the other, and nothing else
    loop_toys.Stream = Faulty
    batch = loop_toys.BATCH
    mesh = loop_toys.mesh(jax.device_count(), data=-1, fsdp=options.get("fsdp", 2))
    run = loop_toys.run_of(
        workdir,
        steps=steps,
        mesh=mesh,
        train=TrainSettings(images=steps * batch, heartbeat=options.get("heartbeat", 300)),
        checkpoint=CheckpointSettings(every_images=5 * batch),
        log=LogSettings(every_images=batch, tensorboard=False),
    )
    try:
        train(run)
    except (Diverged, SaveFailed) as error:  # as the command line does
        print(f"genjax: {error}", file=sys.stderr)
        return 3 if isinstance(error, Diverged) else 1
    return 0


if __name__ == "__main__":
    code = main()
    print(json.dumps({"code": code}), flush=True)
    sys.exit(code)
