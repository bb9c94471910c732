# Sourced by tests/long_checks.sh and tests/fuzz/run.sh, in the repository's top folder.
#   build_asan TARGET...   clang, AddressSanitizer + UndefinedBehaviorSanitizer, tests and fuzz programs: build-asan/
#   build_tsan TARGET...   clang, ThreadSanitizer, -Wthread-safety, without the trainer: build-tsan/
#   junit FILE CLASS NAME SECONDS [LOG]   a JUnit file of one case; with LOG it failed, and the end of LOG says why

build_with() {
  local folder=$1 by_memory jobs
  shift
  local options=()
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  # A LibTorch file takes up to 1.3 GB to compile: no more jobs than memory carries.
  jobs=$(nproc)
  by_memory=$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo)
  [ "$by_memory" -ge "$jobs" ] || jobs=$((by_memory > 0 ? by_memory : 1))
  cmake -G Ninja -S . -B "$folder" -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Release -DHAM_TESTS=ON \
"${options[@]}" && ninja -C "$folder" -j "$jobs" -k 0 "$@"
}

build_asan() { build_with build-asan -DHAM_FUZZ=ON -- "$@"; }
build_tsan() { build_with build-tsan -DHAM_SANITIZE=thread -DHAM_THREAD_SAFETY=ON -DHAM_TRAINER=OFF -- "$@"; }

junit() {
  local failure=
  if [ $# -gt 4 ]; then
    failure="<failure message=\"$(tail -c 2000 "$5" | tr -cd '\11\12\15\40-\176' |
      sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g; s/"/\&quot;/g')\"/>"
  fi
  mkdir -p "$(dirname "$1")"
  printf '<testsuite name="%s"><testcase classname="%s" name="%s" time="%s">%s</testcase></testsuite>\n' \
    "$2" "$2" "$3" "$4" "$failure" >"$1"
}
