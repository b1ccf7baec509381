#!/usr/bin/env bash
# A training run on a GKE cluster made by XPK (pip install xpk; xpk cluster create ...).
#   bash launch/gke/xpk.sh NAME CLUSTER TYPE SLICES IMAGE train --config ... --workdir gs://...
#   bash launch/gke/xpk.sh pod my-cluster v5litepod-16 2 REGION-docker.pkg.dev/PROJECT/genjax/genjax:1 train ...
# XPK makes the JobSet. All exit codes but genjax's 2 (wrong input) and 3 (diverged) restart it from
# the last checkpoint. Logs: bash launch/gke/logs.sh NAME; end: xpk workload delete --cluster CLUSTER
# --workload NAME. Project and zone are gcloud's.
#   GENJAX_RESTARTS  how many restarts (default 10)
set -euo pipefail
[ $# -ge 6 ] || { echo "usage: $0 NAME CLUSTER TYPE SLICES IMAGE COMMAND ..." >&2; exit 2; }
name=$1 cluster=$2 type=$3 slices=$4 image=$5
shift 5
# XPK itself repeats 127 to 255 (signals); 1 is any other failure.
exec xpk workload create --workload "$name" --cluster "$cluster" --tpu-type "$type" \
  --num-slices "$slices" --docker-image "$image" --max-restarts "${GENJAX_RESTARTS:-10}" \
  --restart-on-exit-codes 1 --termination-grace-period-seconds 120 \
  --command "genjax $(printf '%q ' "$@")"
