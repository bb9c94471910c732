#!/usr/bin/env bash
# Builds the fuzz programs (clang, AddressSanitizer and UndefinedBehaviorSanitizer, in build-asan/) and runs each.
#   tests/fuzz/run.sh SECONDS [RESULTS_DIR]
# SECONDS for each program, as many at a time as there are cores. RESULTS_DIR gets a JUnit file of each. What they
# learned stays in build-asan/corpus; an input that broke something lies in build-asan/findings (run the program on
# it: build-asan/fuzz/NAME FILE). A finding becomes a test beside the parser's others, not a file here.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-}
results=${2:-}
[[ $seconds =~ ^[0-9]+$ ]] || { sed -n '2,6p' "$0"; exit 2; }
. tests/checks.sh
mkdir -p build-asan
build_asan fuzz >build-asan/fuzz.log 2>&1 || { grep -v '^\[' build-asan/fuzz.log | tail -n 60; exit 1; }
[ -z "$results" ] || { mkdir -p "$results" && results=$(cd "$results" && pwd); }

run_one() {
  local name=$1 started=$SECONDS failed=()
  mkdir -p "corpus/$name" "seeds/$name" findings
  "fuzz/$name" --write-seeds "seeds/$name"
  if ! "fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1500 -max_len=16384 -reload=0 \
    -print_final_stats=1 -artifact_prefix="findings/$name-" "corpus/$name" "seeds/$name" >"fuzz/$name.log" 2>&1; then
    failed=("fuzz/$name.log")
    echo "$name FAILED: see build-asan/fuzz/$name.log"
    grep -E '^(broken promise|SUMMARY|.*Test unit written)' "fuzz/$name.log" || tail -n 5 "fuzz/$name.log"
  else
    echo "$name: $(awk '/number_of_executed_units/ {print $2}' "fuzz/$name.log") inputs"
  fi
  [ -z "$results" ] || junit "$results/$name.xml" fuzz "$name" $((SECONDS - started)) "${failed[@]}"
  [ ${#failed[@]} -eq 0 ]
}

cd build-asan
export TMPDIR=${TMPDIR:-/dev/shm}  # readers of files get each input as one: 30 times as many as on a disk
export -f run_one junit
export seconds results
find fuzz -name '*_fuzz' -printf '%f\n' | sort |
  xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'run_one "$1"' run_one {}
