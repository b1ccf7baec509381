#!/usr/bin/env bash
# A TPU VM slice, or several (multislice), from its request to its deletion; needs gcloud.
#   bash launch/tpu_vm.sh create NAME TYPE [SLICES] [FLAG ...]   e.g. create pod v5litepod-16 2 --spot
#   bash launch/tpu_vm.sh run NAME train --config ... --workdir gs://BUCKET/RUN
#   bash launch/tpu_vm.sh logs NAME [follow]                     all workers, or the first one's
#   bash launch/tpu_vm.sh stop NAME                              the run saves and ends
#   bash launch/tpu_vm.sh delete NAME
# `create` queues the request and waits. `run` copies this checkout to all workers, starts the same
# `genjax` command on each and shows the first one's log. When a worker fails it shows that one's
# log, stops the others and starts all again (launch/with_restarts.sh: limit, waiting, exit codes),
# on a new slice if this one has been taken away. Ctrl-C leaves the run alone; `run` again watches it.
#   CLOUDSDK_CORE_PROJECT, CLOUDSDK_COMPUTE_ZONE  as gcloud reads them (or its configuration)
#   GENJAX_RUNTIME  the image (default: by type); GENJAX_POLL  seconds between looks (default 30)
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '3,7s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 name=$2
shift 2
memory=${XDG_STATE_HOME:-$HOME/.local/state}/genjax/tpu_vm poll=${GENJAX_POLL:-30}

queued() { gcloud compute tpus queued-resources "$@"; }
all() { queued ssh "$name" --node=all --worker=all --command="$1"; }
first() { queued ssh "$name" --node=0 --worker=0 --command="$1"; }
worker="bash genjax/launch/tpu_worker.sh"
state() { queued describe "$name" --format='value(state.state)'; }

request() {
  local flags
  [ -e "$memory/$name" ] || {
    echo "launch: $name was not created from this machine; delete it and create it here" >&2
    exit 2
  }
  mapfile -t flags <"$memory/$name"
  queued create "$name" "${flags[@]}" --quiet
}

wait_active() { # fails where the request has failed
  local now before=''
  while true; do
    now=$(state) || return 1
    [ "$now" = "$before" ] || echo "launch: $name is $now" >&2
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDED) return 1 ;;
    esac
    before=$now
    sleep "$poll"
  done
}

install() {
  local archive sum
  archive=$(mktemp "${TMPDIR:-/tmp}/genjax.XXXXXX")
  git ls-files --cached --others --exclude-standard -z |
    tar --null --ignore-failed-read -cf - --files-from=- | gzip -n >"$archive"
  sum=$(cksum <"$archive")
  if ! all "grep -qx '$sum' genjax/.copied" 2>/dev/null; then
    queued scp "$archive" "$name:genjax.tgz" --node=all --worker=all || return 1
    all "rm -rf genjax && mkdir genjax && tar -xzf genjax.tgz -C genjax" || return 1
    all "echo '$sum' >genjax/.copied" || return 1
  fi
  rm "$archive"
  all "$worker install"
}

# Prints what every worker says; fails where some cannot be reached.
statuses() { all "$worker status" 2>/dev/null | grep '^worker '; }

follow() { # in a process group of its own: ssh and all beneath it end together
  set -m
  first "$worker follow" 2>/dev/null &
  follower=$!
  set +m
}

watch() { # until the run has ended everywhere; returns its exit code
  local said silent=0 failed=0
  follow
  trap 'kill -- "-$follower" 2>/dev/null || true' EXIT
  while true; do
    sleep "$poll"
    if ! said=$(statuses); then
      silent=$((silent + 1))
      [ "$silent" -ge 3 ] || continue
      echo "launch: workers of $name do not answer" >&2
      return 1
    fi
    silent=0
    grep -q ' running$' <<<"$said" || break
    kill -0 "$follower" 2>/dev/null || follow
    # Left alone, the others notice by themselves and say so; then they are stopped.
    if grep -q ' ended [1-9]' <<<"$said"; then failed=$((failed + 1)); fi
    if [ "$failed" -ge 4 ]; then all "$worker halt" >/dev/null 2>&1 || true; fi
  done
  outcome "$said"
}

outcome() { # returns the run's exit code and shows the log of the worker that failed first
  local code host final
  if grep -q ' stopped$' <<<"$1"; then
    echo "launch: stopped as told; \`run\` goes on" >&2
    return 0
  fi
  read -r _ host _ code _ < <(grep -v ' ended 0 ' <<<"$1" | sort -n -k5,5) || return 0
  code=${code:-1} # without one it has forgotten the run
  for final in 2 3; do # wrong input and divergence say more than what the others die of
    if grep -q " ended $final " <<<"$1"; then code=$final; fi
  done
  echo "launch: $host failed first; the run's exit code is $code; the last lines there:" >&2
  all "$worker tail $host" >&2 2>/dev/null || true
  return "$code"
}

attempt() {
  local said
  case $(state) in
    '') return 1 ;;
    SUSPENDED | FAILED)
      echo "launch: $name was taken away; requesting it again" >&2
      queued delete "$name" --force --quiet
      request
      ;;
  esac
  wait_active || return 1
  if said=$(statuses) && grep -q ' running$' <<<"$said"; then
    echo "launch: watching the run that is there" >&2
  else
    install || return 1
    all "$worker start $(printf '%q ' "$@")" || return 1
  fi
  watch
}

case $command in
  create)
    [ $# -ge 1 ] || usage
    type=$1 slices=1
    shift
    if [[ ${1:-} =~ ^[0-9]+$ ]]; then slices=$1; shift; fi
    case $type in
      v4-*) runtime=tpu-ubuntu2204-base ;;
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      *) runtime='' ;;
    esac
    runtime=${GENJAX_RUNTIME:-$runtime}
    [ -n "$runtime" ] || {
      echo "launch: $type: no image known; use v4-N, v5litepod-N, v5p-N, v6e-N or set GENJAX_RUNTIME" >&2
      exit 2
    }
    nodes=(--node-id="$name")
    [ "$slices" -lt 2 ] || nodes=(--node-count="$slices" --node-prefix="$name")
    mkdir -p "$memory"
    printf '%s\n' --accelerator-type="$type" --runtime-version="$runtime" "${nodes[@]}" "$@" \
      >"$memory/$name"
    request
    wait_active
    ;;
  run)
    [ $# -ge 1 ] || usage
    exec bash launch/with_restarts.sh bash launch/tpu_vm.sh attempt "$name" "$@"
    ;;
  attempt) attempt "$@" ;;
  logs)
    if [ "${1:-}" = follow ]; then first "$worker follow"; else all "$worker tail"; fi
    ;;
  stop) all "$worker stop" ;;
  delete)
    queued delete "$name" --force --quiet
    rm -f "$memory/$name"
    ;;
  *) usage ;;
esac
