#!/usr/bin/env bash
# Runs one `genjax` command as N processes on this machine, as a pod runs it on N hosts.
#   bash launch/local_processes.sh 2 4 train --config configs/quickstart.py --workdir runs/two
# With restarts: bash launch/with_restarts.sh bash launch/local_processes.sh 2 4 train ...
# N processes of D virtual CPU devices each; every process runs the same command. Process 0 writes
# to the terminal, the others to files. When one fails, the others are stopped and its exit code is
# the script's. SIGTERM and Ctrl-C reach all: a training run saves and can be resumed.
#   GENJAX_PORT    port on which the processes meet (default: a free one)
[[ ${1:-} =~ ^[1-9][0-9]*$ && ${2:-} =~ ^[1-9][0-9]*$ && $# -ge 3 ]] ||
  { echo "usage: $0 PROCESSES DEVICES_EACH COMMAND ..." >&2; exit 2; }
needs="" source "$(dirname "$0")/setup.sh"
processes=$1 devices=$2
shift 2
free='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
port=${GENJAX_PORT:-$(python -c "$free")}
export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$devices"
export GENJAX_COORDINATOR="localhost:$port" GENJAX_NUM_PROCESSES=$processes
logs=$(mktemp -d "${TMPDIR:-/tmp}/genjax-processes.XXXXXX")

declare -A running=() # process id -> which process of the run
signal_all() { [ ${#running[@]} = 0 ] || kill "-$1" "${!running[@]}" 2>/dev/null || true; }
trap 'signal_all TERM' TERM INT
for ((i = 0; i < processes; i++)); do
  if [ "$i" = 0 ]; then GENJAX_PROCESS_ID=0 genjax "$@" &
  else GENJAX_PROCESS_ID=$i genjax "$@" >"$logs/$i.log" 2>&1 & fi
  running[$!]=$i
done
[ "$processes" = 1 ] || echo "processes 1 to $((processes - 1)) write to $logs" >&2

code=0
while [ ${#running[@]} != 0 ]; do
  status=0 pid=
  wait -n -p pid || status=$?
  i=${running[${pid:-none}]:-}
  [ -n "$i" ] || continue # a signal, not the end of a process
  unset "running[$pid]"
  [ "$status" != 0 ] || continue
  # 2 (wrong input) and 3 (diverged) say more than what the others die of.
  if [[ $code = 0 || ($code != [23] && $status = [23]) ]]; then code=$status; fi
  [ "$status" != 143 ] || continue # stopped as asked, as the others will
  if [ "$i" != 0 ]; then
    echo "process $i ended with exit code $status; the last lines of $logs/$i.log:" >&2
    tail -n 5 "$logs/$i.log" >&2
  fi
  # The others cannot go on. They have a few seconds to say why, and end by themselves.
  if [ -z "${stopper:-}" ]; then
    (sleep 5; signal_all KILL) >/dev/null 2>&1 &
    stopper=$!
    disown "$stopper"
  fi
done
[ -z "${stopper:-}" ] || kill "$stopper" 2>/dev/null || true
exit "$code"
