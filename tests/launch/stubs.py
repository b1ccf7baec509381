"""Stand-ins for cluster tools: they note their arguments and act on folders instead of machines."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Notes a call; arguments end with the unit separator.
NOTE = r"""#!/usr/bin/env bash
printf '%s\x1f' "${0##*/}" "$@" >>"$STUBS/calls"; echo >>"$STUBS/calls"
"""
# A queued resource is the file `state`; its workers are the folders node*/, each one's home.
GCLOUD = r"""
shift 3 # compute tpus queued-resources
case $1 in
  create)
    [ ! -e "$STUBS/state" ] || exit 1
    echo "${CREATED:-ACTIVE}" >"$STUBS/state"
    for home in "$STUBS"/node*; do
      [ ! -e "$home/genjax-run" ] || kill -9 -- "-$(cat "$home/genjax-run/group")"
      rm -rf "$home/genjax-run" "$home/genjax"
    done
    ;;
  delete) rm "$STUBS/state" ;;
  describe) cat "$STUBS/state" ;;
  scp) for home in "$STUBS"/node*; do cp "$2" "$home/${3#*:}"; done ;;
  ssh)
    [ "$(cat "$STUBS/state")" = ACTIVE ] || exit 255
    where="node*"
    code=0
    for given in "$@"; do
      case $given in
        --worker=0) where=node0 ;;
        --command=*) told=${given#--command=} ;;
      esac
    done
    for home in "$STUBS"/$where; do
      (cd "$home"; HOME=$home WORKER=$(basename "$home") bash -c "$told") || code=$?
    done
    exit "$code"
    ;;
esac
"""
SRUN = r"""
while [[ $1 = -* ]]; do shift; done
code=0 tasks=()
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i setsid "$@" & tasks+=($!); done
trap 'kill -TERM -- "${tasks[@]/#/-}"' TERM # all processes of a task
for task in "${tasks[@]}"; do
  status=0
  wait "$task" || status=$?
  [ "$status" -lt 128 ] || ! kill -0 "$task" 2>/dev/null || { status=0; wait "$task" || status=$?; }
  [ "$status" -le "$code" ] || code=$status # as srun: the highest
done
exit "$code"
"""
# Does the commands of the next line of the file `script`, or nothing; a line is an attempt, in
# which "/" separates the processes.
GENJAX = r"""
me=${GENJAX_PROCESS_ID:-${SLURM_PROCID:-${WORKER#node}}}
attempt=0
[ ! -e "$STUBS/attempts.$me" ] || read -r attempt <"$STUBS/attempts.$me"
echo $((attempt + 1)) >"$STUBS/attempts.$me"
echo "process $me, attempt $attempt: $*"
mapfile -t lines <"$STUBS/script"
IFS=/ read -ra parts <<<"${lines[$attempt]:-}"
eval "${parts[$me]:-}"
"""
TOOLS = {
    "gcloud": GCLOUD,
    "srun": SRUN,
    "genjax": GENJAX,
    "squeue": 'echo "${JOB_STATE:-RUNNING}"',
    "scontrol": "",
    "xpk": "",
    "kubectl": '[ "$1" = logs ] || cat "$STUBS/pods"',
    "hostname": 'echo "${WORKER:-here}"',
}


class Stubs:
    """A copy of launch/ in a git checkout, with the stand-ins first on the PATH."""

    def __init__(self, root: Path):
        self.root, self.bin, self.checkout = root, root / "bin", root / "checkout"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        shutil.copy(ROOT / "setup.py", self.checkout)
        subprocess.run(["git", "init", "-q", self.checkout], check=True)
        for name, does in TOOLS.items():
            self.tool(self.bin / name, NOTE + does)

    def tool(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def script(self, *attempts: str) -> None:
        (self.root / "script").write_text("".join(f"{line}\n" for line in attempts))

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        base = {k: v for k, v in os.environ.items() if not k.startswith(("GENJAX_", "SLURM_"))}
        base |= {
            "STUBS": str(self.root),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "XDG_STATE_HOME": str(self.root / "memory"),
            "TMPDIR": str(self.root),
            "GENJAX_POLL": "0.1",
            "GENJAX_BACKOFF": "0",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(["bash", *command], cwd=self.checkout, env=base | env, **pipes)

    def run(self, *command: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*command, **env)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def calls(self, tool: str) -> list[list[str]]:
        """Returns the arguments of the calls of `tool`, in order."""
        path = self.root / "calls"
        lines = path.read_text().split("\x1f\n") if path.exists() else []
        calls = [line.split("\x1f") for line in lines if line]
        return [call[1:] for call in calls if call[0] == tool]

    def attempts(self, process: int) -> int:
        path = self.root / f"attempts.{process}"
        return int(path.read_text() or 0) if path.exists() else 0  # empty while it is written


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def terminate(process: subprocess.Popen) -> tuple[int, str, str]:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def restarts(err: str) -> list[str]:
    """Returns what was said about restarts."""
    return re.findall(r"exit code \d+; (?:restart|given up)[^\n]*", err)
