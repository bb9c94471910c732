#!/usr/bin/env bash
# The first job, on this machine: installs what is needed, builds, starts a coordinator and two CPU workers,
# trains PGD-AT, HAM (q=0) and HAM (q=0.3) on the same 10,000 Fashion-MNIST images, prints one table and
# leaves nothing running.
#   deploy/quickstart.sh [--seeds 0[,1,2...]] [--json FILE]
# Takes about 10 minutes on two cores the first time; about 5 with everything built.
set -euo pipefail
seeds=0
json=
while [ $# -gt 0 ]; do
  case $1 in
    --seeds) seeds=${2:?--seeds needs a list such as 0,1,2}; shift 2 ;;
    --json) json=$(realpath -m -- "${2:?--json needs a file name}"); shift 2 ;;
    *) sed -n '2,6p' "$0"; exit 2 ;;
  esac
done
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || { echo "--seeds is \"$seeds\"; allowed are numbers with commas, for example 0,1,2" >&2; exit 2; }
cd "$(dirname "$0")/.."
. deploy/local_cluster.sh

child=
# In a process group of its own: a signal to this script ends all of it at once.
run() {
  local status=0
  set -m
  "$@" &
  child=$!
  set +m
  wait "$child" || status=$?
  child=
  return "$status"
}
finish() {
  trap '' INT TERM
  [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null || true
  stop_cluster
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s (at %d s)\n' "$1" "$SECONDS"; }
step "Debian packages"
deploy/install_packages.sh
step "LibTorch"
run deploy/get_libtorch.sh
step "build"
run deploy/build.sh -DHAM_TESTS=OFF
step "a coordinator and two workers"
start_cluster build/bin 2
training_started=$SECONDS
for seed in ${seeds//,/ }; do
  for job in pgd-at ham ham-q30; do
    step "job $job, seed $seed"
    run build/bin/hamctl submit "deploy/quickstart/$job.yaml" --set "train.seed=$seed" \
      --label "quickstart=$job-$seed" --watch || { tail -n 5 "$cluster_dir"/*.log >&2; exit 1; }
  done
done
step "result (jobs took $((SECONDS - training_started)) s)"
build/bin/hamctl list --limit 1000 -o json >"$cluster_dir/jobs.json"
python3 deploy/quickstart/table.py --hamctl build/bin/hamctl --jobs "$cluster_dir/jobs.json" ${json:+--json "$json"}
