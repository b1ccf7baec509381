"""From the start of the process to the first optimiser step done, cold and with the compile cache.

    python benchmarks/startup.py [--config configs/quickstart.py] [--repeats 3] [--config.a.b=VALUE]

Starts `genjax train` for a single step again and again: each cold start with an empty compile
cache in a new folder, each warm one with the cache that a cold one filled. The step counts as done
when its loss is printed. Medians of wall seconds; on a machine with other work, compare the
processor seconds (of the whole process, with the checkpoint at its end).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENJAX = (sys.executable, "-m", "genjax.cli.main")


def processor_seconds() -> float:
    """Returns what all ended child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(arguments: list[str], cache: str, until: str) -> tuple[float, float]:
    """Returns (seconds until a line of standard error begins with `until`, processor seconds).

    Without such a line: until the process ends. Raises `SystemExit` if the command fails.
    """
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    before, started, seconds, said = processor_seconds(), time.perf_counter(), None, []
    process = subprocess.Popen(
        [*GENJAX, *arguments],
        env=env,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if until and seconds is None and line.startswith(until):
            seconds = time.perf_counter() - started
    code = process.wait()
    if code or (until and seconds is None):
        raise SystemExit(f"genjax {' '.join(arguments)} ended with {code}: {''.join(said)}")
    return seconds or time.perf_counter() - started, processor_seconds() - before


def first_step(config: str, overrides: list[str], cache: str) -> tuple[float, float]:
    """Returns wall seconds to the first step and processor seconds of the process."""
    with tempfile.TemporaryDirectory() as workdir:
        one = ["--config.train.images=1"]  # less than a batch: one step
        arguments = ["train", "--config", config, "--workdir", workdir, *one, *overrides]
        return run(arguments, cache, "step 1 ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.py", help="FILE.py[:ARG]")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    options, overrides = parser.parse_known_args()
    rows: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("genjax --help", "genjax train --help", "cold", "warm")
    }
    for _ in range(options.repeats):
        rows["genjax --help"].append(run(["--help"], "", ""))
        rows["genjax train --help"].append(run(["train", "--help"], "", ""))
        with tempfile.TemporaryDirectory() as cache:
            for name in ("cold", "warm"):
                rows[name].append(first_step(options.config, overrides, cache))
    load = os.getloadavg()[0]
    print(
        f"{options.config}, {os.cpu_count()} cores, load {load:.1f}, medians of {options.repeats}"
    )
    print(f"{'':34s} {'wall s':>8s} {'processor s':>12s}")
    medians = {}
    for name, found in rows.items():
        wall, busy = (statistics.median(column) for column in zip(*found))
        medians[name] = wall, busy
        what = name if name.startswith("genjax") else f"first step done, {name} compile cache"
        print(f"{what:34s} {wall:8.2f} {busy:12.2f}")
    wall, busy = (a / b for a, b in zip(medians["cold"], medians["warm"]))
    print(f"{'cold / warm':34s} {wall:8.2f} {busy:12.2f}")


if __name__ == "__main__":
    main()
