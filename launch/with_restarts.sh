#!/usr/bin/env bash
# Runs a command, and again when it fails: `genjax train` goes on from its last checkpoint.
#   bash launch/with_restarts.sh bash launch/local_processes.sh 4 2 train --config ... --workdir ...
# Not again: done (0), wrong input (2), diverged (3), or when this script is told to stop: SIGTERM
# and Ctrl-C reach the command, which saves. The exit code is that of the last attempt.
#   GENJAX_RESTARTS  how many restarts in a row (default 10)
#   GENJAX_BACKOFF   seconds before the first, doubled each time up to ten minutes (default 10)
#   GENJAX_STEADY    seconds after which an attempt counts as a success: the count and the wait
#                    begin anew (default 3600)
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: $0 COMMAND ..." >&2; exit 2; }
restarts=${GENJAX_RESTARTS:-10} backoff=${GENJAX_BACKOFF:-10} steady=${GENJAX_STEADY:-3600}

told='' heard='' running='' code=0
trap 'told=yes heard=yes; [ -z "$running" ] || kill -TERM "$running" 2>/dev/null' TERM INT
attend() { # runs "$@" to its end and sets `code`; signals are heard meanwhile
  "$@" &
  running=$!
  [ -z "$told" ] || kill -TERM "$running" 2>/dev/null # the signal came before its id was known
  while true; do
    heard='' code=0
    wait "$running" || code=$?
    [ -n "$heard" ] || break # else `wait` was cut short, and the command is still ending
  done
  running=''
}

count=0 pause=$backoff
while true; do
  started=$SECONDS
  attend "$@"
  result=$code
  case $result in 0 | 2 | 3) exit "$result" ;; esac
  [ -z "$told" ] || exit "$result"
  if [ $((SECONDS - started)) -ge "$steady" ]; then count=0 pause=$backoff; fi
  if [ "$count" -ge "$restarts" ]; then
    echo "launch: exit code $result; given up after $restarts restarts in a row" >&2
    exit "$result"
  fi
  count=$((count + 1))
  echo "launch: exit code $result; restart $count of $restarts in $pause s" >&2
  attend sleep "$pause"
  [ -z "$told" ] || exit "$result"
  pause=$((pause * 2 > 600 ? 600 : pause * 2))
done
