#!/usr/bin/env bash
# What launch/tpu_vm.sh does on each worker, in a copy of the checkout there.
#   install       an environment with genjax, in ~/genjax-env
#   start ARGS    `genjax ARGS` in the background, writing to ~/genjax-run/log
#   status        a line: worker HOST idle, running, stopped or ended CODE TIME
#   follow        the log until the run ends here
#   tail [HOST]   the last lines of the log, on all workers or on one
#   halt          SIGTERM, a minute later SIGKILL
#   stop          the same, and `status` says that it was wanted
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${GENJAX_ENVIRONMENT:-$HOME/genjax-env} state=${GENJAX_STATE:-$HOME/genjax-run}
mkdir -p "$state"
command=${1:?a command} host=$(hostname)
shift

# The run holds a lock, which ends with it whatever happens, unlike a file with its process id.
running() { ! flock --nonblock "$state/lock" true; }

halt() {
  running || return 0
  local group i
  group=$(cat "$state/group")
  kill -TERM -- "-$group" 2>/dev/null || true
  for ((i = 0; i < ${GENJAX_GRACE:-60}; i++)); do running || return 0; sleep 1; done
  kill -KILL -- "-$group" 2>/dev/null || true
  flock --timeout 30 "$state/lock" true
}

case $command in
  install)
    if [ ! -x "$environment/bin/python" ]; then
      if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python3 -m venv "$environment"
      else # the images of some TPUs have Python 3.10
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --seed --python 3.12 "$environment"
      fi
    fi
    export VIRTUAL_ENV=$environment GENJAX_EXTRAS=${GENJAX_EXTRAS:-tpu,gcs}
    needs="" source launch/setup.sh
    ;;
  start)
    halt # what an attempt before has left would hold the chips
    rm -f "$state/ended" "$state/stopped"
    export PATH="$environment/bin:$PATH" state
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid bash -c '
      exec 9>"$state/lock" >>"$state/log" 2>&1 </dev/null
      flock 9
      trap : TERM # genjax ends by itself; this shell notes how
      code=0
      genjax "$@" || code=$?
      echo "$code $(date +%s.%N)" >"$state/ended"' genjax "$@" &
    echo $! >"$state/group"
    while [ ! -e "$state/ended" ] && ! running; do sleep 0.1; done
    ;;
  status)
    if [ -e "$state/ended" ]; then
      if [ -e "$state/stopped" ]; then echo "worker $host stopped"
      else echo "worker $host ended $(cat "$state/ended")"; fi
    elif running; then echo "worker $host running"
    elif [ -e "$state/group" ]; then echo "worker $host ended 137 0" # killed, or the machine restarted
    else echo "worker $host idle"; fi
    ;;
  follow) exec tail -n 10 --pid="$(cat "$state/group")" -F "$state/log" ;;
  tail)
    [ "${1:-$host}" != "$host" ] || tail -n "${GENJAX_LINES:-20}" "$state/log" | sed "s/^/$host: /"
    ;;
  halt) halt ;;
  stop)
    touch "$state/stopped"
    halt
    ;;
  *)
    echo "launch: $command is no command of $0" >&2
    exit 2
    ;;
esac
