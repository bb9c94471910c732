#!/usr/bin/env bash
# Builds ham into build/ (programs in build/bin). Arguments go to cmake, for example -DHAM_TESTS=OFF.
set -euo pipefail
cd "$(dirname "$0")/.."
# A LibTorch file takes up to 1.3 GB to compile: no more jobs than memory carries.
jobs=$(nproc)
by_memory=$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo)
[ "$by_memory" -ge "$jobs" ] || jobs=$((by_memory > 0 ? by_memory : 1))
mkdir -p build
cmake -G Ninja -S . -B build "$@" >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
ninja -C build -j "$jobs" >build/build.log 2>&1 || { grep -v '^\[' build/build.log | tail -n 60; exit 1; }
