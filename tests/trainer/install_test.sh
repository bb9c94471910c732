#!/bin/sh
# An installed ham-trainer starts after its tree was moved, with the libraries of that tree.
#   install_test.sh CMAKE BUILD_DIRECTORY
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset LD_LIBRARY_PATH
"$1" --install "$2" --component trainer --prefix "$work/first" >/dev/null
mv "$work/first" "$work/moved"
"$work/moved/bin/ham-trainer" version --json
# Only loaded libraries count; the wheel's lie under lib/ham, none may come from the build machine's own copy.
ldd "$work/moved/bin/ham-trainer" >"$work/ldd"
for library in libtorch_cpu.so libc10.so libgomp libcudart.so libcupti.so; do
  grep "$library" "$work/ldd" | grep -q "=> $work/moved/bin/../lib/ham/" || { echo "$library is not from the moved tree:"; cat "$work/ldd"; exit 1; }
done
if grep -q 'not found' "$work/ldd"; then
  cat "$work/ldd"
  exit 1
fi
