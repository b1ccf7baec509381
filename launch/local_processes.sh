#!/usr/bin/env bash
# Runs one `genjax` command as N processes on this machine, as a pod runs it on N hosts.
#   bash launch/local_processes.sh 2 4 train --config configs/quickstart.py --workdir runs/two
# N processes of D virtual CPU devices each; every process runs the same command.
source "$(dirname "$0")/setup.sh"
[ $# -ge 3 ] || { echo "usage: $0 PROCESSES DEVICES_EACH COMMAND ..." >&2; exit 2; }
processes=$1 devices=$2
shift 2
export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$devices"
export GENJAX_COORDINATOR="localhost:${GENJAX_PORT:-12321}" GENJAX_NUM_PROCESSES=$processes
for ((i = processes - 1; i > 0; i--)); do
  GENJAX_PROCESS_ID=$i genjax "$@" >"${TMPDIR:-/tmp}/genjax-process-$i.log" 2>&1 &
done
GENJAX_PROCESS_ID=0 genjax "$@"
wait
