"""A run of two processes that is struck at random ends bit for bit like an undisturbed one.

    python benchmarks/soak.py --minutes 60 --out soak.json

Trains a small DiT on the digits by `launch/local_processes.sh`, under `launch/with_restarts.sh`,
twice: with SIGTERM, SIGKILL or SIGSTOP sent to one of its two processes at random moments, until
the time is up; and undisturbed, for as many steps. Prints and writes JSON: strikes by kind,
restarts, steps lost, goodput as the run logged it (useful step time over all time since it was
first begun), and whether parameters and averages are equal in every bit. Exit code 1 if not.
"""

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from genjax.checkpoint import Checkpoints
from genjax.core.tree import flatten
from genjax.training.writers import read_metrics

ROOT = Path(__file__).resolve().parents[1]
STRIKES = ("SIGTERM", "SIGKILL", "SIGSTOP")
BATCH = 16
SETTINGS = {
    "task.model.depth": 2,
    "task.model.width": 32,
    "task.model.heads": 2,
    "data.main.batch": BATCH,
    "mesh.fsdp": 2,
    "mesh.data": 1,
    "rules.replicate_below": 0,
    "log.every_images": 10 * BATCH,
    "log.tensorboard": False,
    "samples.every_images": 0,
    "heldout.every_images": 0,
    "evaluation.every_images": 0,
}


def start(workdir: Path, steps: int, args) -> subprocess.Popen:
    """Returns the launcher of a run, which writes to `workdir`.log."""
    given = SETTINGS | {
        "train.images": steps * BATCH,
        "train.heartbeat": args.heartbeat,
        "checkpoint.every_images": args.save * BATCH,
    }
    flags = [f"--config.{key}={value}" for key, value in given.items()]
    command = ["bash", "launch/with_restarts.sh", "bash", "launch/local_processes.sh", "2", "1"]
    command += ["train", "--config", "configs/quickstart.py", "--workdir", str(workdir), *flags]
    # Every attempt counts as a success: as many restarts as strikes, each after a second.
    env = os.environ | {"GENJAX_SOAK": str(workdir), "GENJAX_STEADY": "0", "GENJAX_BACKOFF": "1"}
    with open(f"{workdir}.log", "w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=env)


def processes_of(workdir: Path) -> list[int]:
    """Returns the ids of the run's processes."""
    mine = f"GENJAX_SOAK={workdir}".encode()
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
            if mine in words and any(word.startswith(b"GENJAX_PROCESS_ID=") for word in words):
                stat = (entry / "stat").read_text().rpartition(")")[2]
                parents[int(entry.name)] = int(stat.split()[1])
        except (OSError, ValueError):  # no process, or one that has just ended
            continue
    return [pid for pid, parent in parents.items() if parent not in parents]


def attempts(workdir: Path) -> tuple[list[tuple[int, int]], bool]:
    """Returns (step that it began from, step last logged) of every attempt that began to train, and
    whether the newest attempt has logged a step."""
    found: list[list[int]] = []
    training = False
    for line in Path(f"{workdir}.log").read_text().splitlines():
        if line.startswith("processes 1 to 1 write to"):  # the launcher's first words
            training = False
        elif match := re.match(r"started: |resumed from step ([\d,]+)", line):
            found.append([int((match[1] or "0").replace(",", ""))] * 2)
        elif match := re.match(r"step (\d+) ", line):
            found[-1][1], training = int(match[1]), True
    return [(first, last) for first, last in found], training


def struck(workdir: Path, args, chance: random.Random) -> dict:
    """Strikes the run at random moments until the time is up; returns what happened."""
    strikes: Counter[str] = Counter()
    hit: set[int] = set()
    due, end = None, time.monotonic() + 60 * args.minutes
    run = start(workdir, 2**31 // BATCH - 1, args)
    while run.poll() is None:
        time.sleep(0.2)
        alive, training = processes_of(workdir), attempts(workdir)[1]
        # A strike while JAX starts would only make it start once more.
        if not training or len(alive) != 2 or hit & set(alive):
            due = None
        elif time.monotonic() > end:
            run.terminate()
            run.wait()
        elif due is None:
            due = time.monotonic() + chance.expovariate(1 / args.between)
        elif time.monotonic() > due:
            name = chance.choice(STRIKES)
            os.kill(chance.choice(alive), getattr(signal, name))
            strikes[name] += 1
            hit |= set(alive)
    if run.returncode != 143:
        sys.exit(f"the run ended with exit code {run.returncode}: see {workdir}.log")
    reached, _ = attempts(workdir)
    lost = sum(a[1] - b[0] for a, b in itertools.pairwise(reached))
    return {"strikes": dict(strikes), "restarts": len(reached) - 1, "logged_steps_lost": lost}


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    params, _ = Checkpoints(str(workdir)).restore_params("raw")
    found = {"raw": params}
    config = json.loads((workdir / "config.json").read_text())["config"]
    for name in config["ema"]:
        found[name], _ = Checkpoints(str(workdir)).restore_params(name)
    return {k: np.asarray(v) for k, v in flatten(found).items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="of the struck run")
    parser.add_argument("--between", type=float, default=40, help="mean seconds between strikes")
    parser.add_argument("--save", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--heartbeat", type=float, default=15, help="seconds, as config.train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", default="runs/soak", help="folder for the runs; emptied first")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    root = Path(args.workdir).resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    broken, whole = root / "struck", root / "undisturbed"
    begin = time.monotonic()
    found = struck(broken, args, random.Random(args.seed))
    minutes = (time.monotonic() - begin) / 60
    steps = Checkpoints(str(broken)).latest() or 0
    if start(whole, steps, args).wait():
        sys.exit(f"the undisturbed run failed: see {whole}.log")
    a, b = arrays(whole), arrays(broken)
    goodput = lambda path: round(read_metrics(str(path))[-1]["goodput"], 4)  # noqa: E731
    report = {
        "processes": 2,
        "steps": steps,
        "minutes": round(minutes, 2),
        "mean_seconds_between_strikes": args.between,
        "heartbeat_seconds": args.heartbeat,
        "steps_between_checkpoints": args.save,
        **found,
        "goodput": goodput(broken),
        "goodput_undisturbed": goodput(whole),
        "arrays": len(a),
        "equal": a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a),
    }
    print(json.dumps(report, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
