#!/bin/sh
# Fetches LibTorch (the pinned PyPI wheels, CPU set: 545 MB to download, 1.2 GB on disk) and unpacks it:
#   deploy/get_libtorch.sh [PREFIX]
# PREFIX: first argument, or HAM_LIBTORCH, or ham/libtorch-2.11.0-cpu in the user's cache folder, which is
# where CMake looks. A complete prefix is left as it is. May be stopped at any time and run again: the prefix
# appears whole or not at all. Needs python3 >= 3.9 with pip, and sha256sum and flock; no Python at run time.
set -eu

requirements() {
  cat <<'LIST'
torch==2.11.0 --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
LIST
}

say() { echo "get_libtorch: $*" >&2; }
fail() { say "$*"; exit 1; }

prefix=${1:-${HAM_LIBTORCH:-${XDG_CACHE_HOME:-$HOME/.cache}/ham/libtorch-2.11.0-cpu}}
while [ "${prefix%/}" != "$prefix" ] && [ "$prefix" != / ]; do prefix=${prefix%/}; done
marker=$prefix/.ham-complete
start=$(date +%s)

complete() { [ -f "$marker" ] && [ "$(cat "$marker")" = "$(requirements)" ]; }

if complete; then
  say "$prefix is complete"
  exit 0
fi
command -v python3 >/dev/null || fail "python3 is missing: install python3 and python3-pip"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: install python3-pip"
[ "$(uname -m)" = x86_64 ] || fail "only x86_64 is supported, this is $(uname -m)"

mkdir -p "$(dirname "$prefix")" || fail "cannot make $(dirname "$prefix"): name another PREFIX"
parent=$(cd "$(dirname "$prefix")" && pwd)
prefix=$parent/$(basename "$prefix")
marker=$prefix/.ham-complete

# One at a time for a prefix; the lock goes with the process.
exec 9>"$prefix.lock"
if ! flock -n 9; then
  say "another get_libtorch is at work on $prefix: waiting for it"
  flock 9
fi
if complete; then
  say "$prefix is complete"
  exit 0
fi
# Only what this script made is ever replaced.
if [ -e "$prefix" ] && [ ! -f "$marker" ] && [ -n "$(ls -A "$prefix")" ]; then
  fail "$prefix holds something else: name an empty or new folder"
fi

# Whole wheels stay in $prefix.download until the end, so that a second run fetches only what is missing.
downloads=$prefix.download
new=$prefix.new
free=$(df -Pk "$parent" | awk 'NR == 2 { print $4 }')
[ "$free" -ge 2000000 ] || fail "$parent has $((free / 1000)) MB free: 2000 MB are needed"
rm -rf "$new"
mkdir -p "$downloads"

requirements | while IFS= read -r line; do
  hash=${line##*sha256:}
  have=$(find "$downloads" -maxdepth 1 -name '*.whl' -exec sha256sum {} + | awk -v h="$hash" '$1 == h { print $2 }')
  if [ -n "$have" ]; then
    say "have ${line%% *}"
    continue
  fi
  say "fetching ${line%% *}"
  echo "$line" >"$downloads/requirements.txt"
  # Into a folder of its own and then moved: a stopped download never looks like a wheel.
  rm -rf "$downloads/part"
  python3 -m pip --disable-pip-version-check download --quiet --no-cache-dir --no-deps --require-hashes \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi none --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$downloads/part" --requirement "$downloads/requirements.txt" 9>&- </dev/null ||
    fail "fetching ${line%% *} failed: check the network and run this again"
  mv "$downloads/part"/*.whl "$downloads/"
done

say "unpacking"
python3 - "$new" "$downloads" <<'PYTHON'
import hashlib, os, pathlib, stat, sys, zipfile

new, downloads = map(pathlib.Path, sys.argv[1:])
for wheel in sorted(downloads.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            path = archive.extract(item, new)  # checks each file's CRC, and keeps within `new`
            if not item.is_dir():
                os.chmod(path, 0o755 if (item.external_attr >> 16) & stat.S_IXUSR else 0o644)
PYTHON
for file in torch/lib/libtorch_cpu.so torch/lib/libc10.so nvidia/cu13/lib/libcudart.so.13 nvidia/cu13/lib/libcupti.so.13; do
  [ -f "$new/$file" ] || fail "the wheels hold no $file: report this as a fault of ham"
done
requirements >"$new/.ham-complete"
sync -f "$new" 2>/dev/null || sync
if [ -e "$prefix" ]; then
  rm -rf "$prefix.old"
  mv "$prefix" "$prefix.old"
fi
mv "$new" "$prefix"
rm -rf "$prefix.old" "$downloads"
say "$prefix is complete, after $(($(date +%s) - start)) s"
