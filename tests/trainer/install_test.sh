#!/bin/sh
# An installed program starts after its tree was moved, and all libraries there find each other in that tree.
#   install_test.sh CMAKE BUILD_DIRECTORY COMPONENTS PROGRAM LIBRARY...
# LIBRARY: what the program must load from the tree.
set -eu
cmake=$1 build=$2 components=$3 program=$4
shift 4
work=$(mktemp -d -p "$build")  # not in memory: with CUDA it is 3.3 GB
trap 'rm -rf "$work"' EXIT
unset LD_LIBRARY_PATH
for component in $components; do
  "$cmake" --install "$build" --component "$component" --prefix "$work/first" >/dev/null
done
mv "$work/first" "$work/moved"
"$work/moved/bin/$program" version --json
# The wheel's lie under lib/ham, none may come from the build machine's own copy.
ldd "$work/moved/bin/$program" >"$work/ldd"
for library; do
  grep "$library" "$work/ldd" | grep -q "=> $work/moved/" || { echo "$library is not from the moved tree:"; cat "$work/ldd"; exit 1; }
done
# Those too that are opened by name only; libcuda is the driver's.
find "$work/moved/lib" -type f -exec ldd {} + >>"$work/ldd"
if grep 'not found' "$work/ldd" | grep -v libcuda.so.1; then
  exit 1
fi
