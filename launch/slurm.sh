#!/usr/bin/env bash
#SBATCH --job-name=genjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=genjax-%j.log
# A Slurm job of one process a GPU; from the checkout, whose environment all nodes see:
#   source .venv/bin/activate; sbatch launch/slurm.sh train --config ... --workdir ...
#   sbatch --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh train ...
# JAX finds the processes by Slurm's variables and gives each the GPU of its number on the node, so
# every task must see all GPUs of its node: no --gpus-per-task. A failed attempt is repeated within
# the job (launch/with_restarts.sh: limit, waiting, exit codes); the log of the task that failed
# first is shown. Three minutes before the time limit the run is told to save, and the job queued
# again; so does Slurm itself after a node's failure or a preemption.
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: sbatch launch/slurm.sh COMMAND ..." >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "launch: submit this with sbatch" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?}" || exit 1 # Slurm runs a copy of this file elsewhere

if [ -z "${GENJAX_ATTEMPT_LOGS:-}" ]; then # the job: attempts until done
  export GENJAX_ATTEMPT_LOGS=$PWD/genjax-$SLURM_JOB_ID.tasks
  mkdir -p "$GENJAX_ATTEMPT_LOGS"
  told='' job=''
  trap 'told=yes; [ -z "$job" ] || kill -TERM "$job" 2>/dev/null' TERM
  bash launch/with_restarts.sh bash launch/slurm.sh "$@" &
  job=$! code=0
  [ -z "$told" ] || kill -TERM "$job" 2>/dev/null # the signal came before its id was known
  wait "$job" || code=$?
  if [ -n "$told" ]; then
    code=0
    wait "$job" || code=$?
    # A cancelled job hears the same signal; it is no longer running.
    if [ "$code" = 143 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
      echo "launch: saved before the time limit; queued again" >&2
      scontrol requeue "$SLURM_JOB_ID"
    fi
  fi
  exit "$code"
fi

# One attempt. Task i writes to i.log and, at its end, its exit code and the time to i.ended; srun's
# own exit code is the highest of all, and those that are killed after a failure have a higher one.
logs=$GENJAX_ATTEMPT_LOGS
rm -f "$logs"/*.ended
# shellcheck disable=SC2016 # expanded in each task
task='genjax "$@" >>"$0/$SLURM_PROCID.log" 2>&1; code=$?; echo "$code $(date +%s.%N) $SLURM_PROCID" >"$0/$SLURM_PROCID.ended"; exit "$code"'
told='' step=''
trap 'told=yes; [ -z "$step" ] || kill -TERM "$step" 2>/dev/null' TERM
srun --kill-on-bad-exit=1 --gpu-bind=none bash -c "trap : TERM; $task" "$logs" "$@" &
step=$! code=0
[ -z "$told" ] || kill -TERM "$step" 2>/dev/null
wait "$step" || code=$?
if [ -n "$told" ]; then # the first `wait` was cut short
  code=0
  wait "$step" || code=$?
fi
for wanted in 2 3; do # wrong input and divergence say more than what the others die of
  if grep -qs "^$wanted " "$logs"/*.ended; then code=$wanted; break; fi
done
if [ "$code" != 0 ] && [ "$code" != 143 ]; then
  read -r status _ failed < <(cat "$logs"/*.ended 2>/dev/null | grep -v '^0 ' | sort -k2,2)
  echo "launch: task ${failed:-?} failed first, with exit code ${status:-unknown}; the end of $logs/${failed:-*}.log:" >&2
  [ -z "${failed:-}" ] || tail -n 20 "$logs/$failed.log" >&2
fi
exit "$code"
