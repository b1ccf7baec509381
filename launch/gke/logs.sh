#!/usr/bin/env bash
# Logs of a run on GKE (JobSet or XPK): of the pod that failed first, or without one of the first.
#   bash launch/gke/logs.sh NAME [KUBECTL_FLAG ...]      e.g. --follow, --tail=200
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 NAME [KUBECTL_FLAG ...]" >&2; exit 2; }
name=$1
shift
pods() { kubectl get pods --selector="jobset.sigs.k8s.io/jobset-name=$name" --output="jsonpath=$1"; }
ends='{range .items[*]}{.status.containerStatuses[0].state.terminated.finishedAt}{" "}{.metadata.name}{" "}{.status.containerStatuses[0].state.terminated.exitCode}{"\n"}{end}'
found=$(pods "$ends")
failed=$(awk 'NF == 3 && $3 != 0' <<<"$found" | sort | head -n 1)
if [ -n "$failed" ]; then
  read -r _ pod code <<<"$failed"
  echo "launch: $pod failed first, with exit code $code; its last lines:" >&2
else
  pod=$(awk 'NF { print $(NF > 1 ? 2 : 1) }' <<<"$found" | sort | head -n 1)
  [ -n "$pod" ] || { echo "launch: $name has no pods; those of earlier attempts are in Cloud Logging" >&2; exit 1; }
fi
exec kubectl logs "$pod" --tail=40 "$@"
