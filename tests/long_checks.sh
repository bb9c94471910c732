#!/usr/bin/env bash
# Checks that take long. tests/run.sh --long runs them all; each can be run alone, again and again.
#   tests/long_checks.sh RESULTS_DIR [--record] [CHECK...]
# CHECK, in the order in which they run:
#   asan           unit, simulation and integration tests of the control plane with AddressSanitizer and
#                  UndefinedBehaviorSanitizer (gRPC and other libraries are not instrumented)
#   thread_safety  the control plane and its tests compile with clang -Wthread-safety as an error
#   tsan           unit and integration tests of the control plane that have threads, with ThreadSanitizer
#   asan_trainer   unit tests of the trainer, likewise (neither LibTorch nor Gloo is instrumented)
#   tidy           clang-tidy (.clang-tidy) over proto, server, worker and client
#   cuts           the store reopened on its log cut at every length
#   slurm          deploy/slurm in a Slurm of its own: time limits, preemption, a node that fails (needs root)
#   seeds          HAM_SEEDS (default 20) more walks of the simulation, each with a new seed
#   mutations      mutations of the core, each of which the simulation must catch
#   fuzz           each fuzz program for HAM_FUZZ_SECONDS (default 60)
#   live           boards and alerts against a real cluster and a real Prometheus (needs root)
#   packages       Debian packages of build/ under a systemd of their own: installed, at work, upgraded, purged (root)
#   containers     images of a coordinator and a worker, made from build/, run a job as Kubernetes would; needs root
# RESULTS_DIR gets a folder of JUnit files and a log a check; tests/summarize.py adds them up. --record writes the
# outcome of each to tests/long_checks_result.txt. Takes about 90 minutes on two cores, most of it compiling; with everything
# compiled about 35. Works in build/, build-asan/ and build-tsan/.
set -euo pipefail
cd "$(dirname "$0")/.."
checks=(asan thread_safety tsan asan_trainer tidy cuts slurm seeds mutations fuzz live packages containers)
results=
record=
chosen=()
while [ $# -gt 0 ]; do
  case $1 in
    --record) record=1 ;;
    -*) sed -n '3,22p' "$0"; exit 2 ;;
    *)
      if [ -z "$results" ]; then
        results=$1
      else
        [[ " ${checks[*]} " == *" $1 "* ]] || { echo "no check is called $1; there are: ${checks[*]}" >&2; exit 2; }
        chosen+=("$1")
      fi
      ;;
  esac
  shift
done
[ -n "$results" ] || { sed -n '3,22p' "$0"; exit 2; }
[ ${#chosen[@]} -gt 0 ] || chosen=("${checks[@]}")
deploy/install_packages.sh long
deploy/get_libtorch.sh
mkdir -p "$results"
results=$(cd "$results" && pwd)
. tests/checks.sh

# run_tests BUILD_DIR RESULTS_DIR CTEST_OPTION...
run_tests() {
  local build=$1 results=$2
  shift 2
  # Without the tests of speed: a sanitizer takes most of it.
  GTEST_FILTER='-*RecordsASecond*' GTEST_OUTPUT="xml:$results/" ctest --test-dir "$build" --output-on-failure "$@"
}

asan_options() {
  export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
  export UBSAN_OPTIONS=print_stacktrace=1
  export LSAN_OPTIONS=suppressions=$PWD/tests/lsan_suppressions:print_suppressions=0
}

check_asan() {
  build_asan control_plane_tests
  asan_options
  run_tests build-asan "$1" -L '^(unit|simulation|integration)$' -LE '^trainer$'
}

check_asan_trainer() {
  build_asan trainer_tests
  asan_options
  run_tests build-asan "$1" -L '^unit$' -L '^trainer$'
}

check_thread_safety() { build_tsan all; }

check_tsan() {
  build_tsan control_plane_tests
  export TSAN_OPTIONS=suppressions=$PWD/tests/tsan_suppressions:halt_on_error=0:second_deadlock_stack=1
  # Without those of one thread: slow, and nothing to race with.
  run_tests build-tsan "$1" -L '^(unit|integration)$' -E '^(core_test|job_store_crash_test)$'
}

check_tidy() {
  build_asan ham_proto ham_store  # generated headers
  find proto server worker client -name '*.cc' | sort |
    xargs -P "$(nproc)" -n 1 clang-tidy -p build-asan --quiet
}

check_cuts() {
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build job_store_crash_test
  HAM_EVERY_LENGTH=1 TMPDIR=/dev/shm GTEST_FILTER='*CutAnywhere*' GTEST_OUTPUT="xml:$1/" build/tests/job_store_crash_test
}

check_slurm() {
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build ham-coordinator ham-worker ham-trainer hamctl scripted_nvml
  HAM_BIN=$PWD/build/bin HAM_SCRIPTED_NVML=$PWD/build/tests/agent/libscripted_nvml.so GTEST_OUTPUT="xml:$1/" \
    PYTHONDONTWRITEBYTECODE=1 python3 tests/slurm/slurm_test.py
}

check_seeds() {
  # As users build it: 80 times as fast as with AddressSanitizer.
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build coordinator_simulation_test
  local i seed failed=0
  for ((i = 0; i < ${HAM_SEEDS:-20}; i++)); do
    seed=$((RANDOM * 32768 + RANDOM))
    echo "seed $seed"
    HAM_SEED=$seed GTEST_OUTPUT="xml:$1/seed-$seed.xml" build/tests/coordinator_simulation_test || failed=1
  done
  return $failed
}

check_mutations() {
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build simulate
  tests/simulation/mutation_check.py --result "$1/mutations.txt"
}

check_live() {
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build ham-coordinator ham-worker ham-trainer hamctl scripted_nvml shifted_clock
  HAM_BIN=$PWD/build/bin HAM_SCRIPTED_NVML=$PWD/build/tests/agent/libscripted_nvml.so PYTHONDONTWRITEBYTECODE=1 \
    python3 tests/operations/live.py --pictures "$1/pictures" --result "$1/live.txt"
}

check_containers() {
  deploy/install_packages.sh containers
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build ham-coordinator ham-worker ham-trainer hamctl
  tests/deploy/make_venv.sh /usr/bin/python3 build/deploy-venv
  GTEST_OUTPUT="xml:$1/" build/deploy-venv/bin/python tests/deploy/containers_test.py
}

check_packages() {
  deploy/install_packages.sh packages
  cmake -G Ninja -S . -B build -DHAM_TESTS=ON
  ninja -C build ham-coordinator ham-worker ham-trainer hamctl
  HAM_BUILD=$PWD/build HAM_PACKAGES_RESULT=$1/packages.json GTEST_OUTPUT="xml:$1/" PYTHONDONTWRITEBYTECODE=1 python3 tests/deploy/packages_test.py
}

check_fuzz() { tests/fuzz/run.sh "${HAM_FUZZ_SECONDS:-60}" "$1"; }

# What is checked: the commit, and whether the tree differs from it.
tree() {
  git rev-parse --short=12 HEAD
  git diff --quiet HEAD -- . ':!tests/long_checks_result.txt' || echo 'with changes'
}

# record_line CHECK TREE OUTCOME: puts the line of a check into the record, in the order of the checks; the others keep
# theirs.
record_line() {
  local file=tests/long_checks_result.txt check kept
  kept=$(cat "$file" 2>/dev/null || true)
  {
    echo "# The last outcome of each check; written by tests/long_checks.sh --record. Each counts as a case itself."
    for check in "${checks[@]}"; do
      if [ "$check" = "$1" ]; then
        printf '%-14s %s, commit %s, %s cores: %s\n' "$1" "$(date -u +%Y-%m-%d)" "$2" "$(nproc)" "$3"
      else
        grep "^$check " <<<"$kept" || true
      fi
    done
  } >"$file.new"
  mv "$file.new" "$file"
}

status=0
for check in "${chosen[@]}"; do
  folder=$results/$check
  rm -rf "$folder"
  mkdir -p "$folder"
  printf -- '-- %s: log in %s\n' "$check" "$folder/log"
  started=$SECONDS
  tree=$(tree | paste -sd ' ')
  code=0
  # In the background, as set -e does nothing on the left of ||.
  (set -e; "check_$check" "$folder") >"$folder/log" 2>&1 &
  wait $! || code=$?
  failed=()
  outcome=passed
  if [ "$code" -ne 0 ]; then
    failed=("$folder/log")
    outcome=FAILED
    status=1
    grep -v '^\[' "$folder/log" | tail -n 40
  fi
  junit "$folder/check.xml" long_checks "$check" $((SECONDS - started)) "${failed[@]}"
  counts=$(python3 tests/summarize.py "$folder" | tail -n 1) || true  # its status says what is known already
  outcome="$outcome ($counts) in $((SECONDS - started)) s"
  echo "$check $outcome"
  [ -z "$record" ] || record_line "$check" "$tree" "$outcome"
done
exit $status
