#!/usr/bin/env bash
# Builds ham and runs all its tests; about 12 minutes on two cores, can be run again and again.
#   tests/run.sh [--cuda-build] [--long] [--label LABEL]
# --cuda-build fetches what ham-trainer-cuda is linked with (2.6 GB, once). Where that is, the program is built and, as far
# as it can be without a GPU, tested.
# --long adds tests/long_checks.sh: sanitizer builds, clang -Wthread-safety and clang-tidy, more simulation seeds, fuzzers;
# about 90 minutes more.
# --label runs only the tests of one CTest label (unit, simulation, integration, e2e, cuda).
# The last line is `N passed, N failed, N skipped`; each skip is listed with its reason. With CI set, a skip
# that tests/allowed_skips does not name counts as a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
cuda=AUTO
long=
label=()
while [ $# -gt 0 ]; do
  case $1 in
    --cuda-build) cuda=ON; shift ;;
    --long) long=1; shift ;;
    --label) label=(-L "^${2:?--label needs a label}\$"); shift 2 ;;
    *) sed -n '2,11p' "$0"; exit 2 ;;
  esac
done
step() { printf '\n== %s (at %d s)\n' "$1" "$SECONDS"; }
step "Debian packages"
deploy/install_packages.sh tests
step "LibTorch"
deploy/get_libtorch.sh
[ "$cuda" = AUTO ] || deploy/get_libtorch.sh --cuda
step "build"
deploy/build.sh -DHAM_TESTS=ON -DHAM_CUDA=$cuda
step "tests"
results=$PWD/build/test-results
rm -rf "$results"
mkdir -p "$results"
status=0
GTEST_OUTPUT="xml:$results/" ctest --test-dir build --output-on-failure --parallel "$(nproc)" --output-junit "$PWD/build/ctest.xml" "${label[@]}" || status=$?
if [ -n "$long" ]; then
  step "long checks"
  tests/long_checks.sh "$results" || status=$?
fi
step "summary"
python3 tests/summarize.py "$results" --ctest build/ctest.xml --status "$status"
