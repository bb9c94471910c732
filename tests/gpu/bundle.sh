#!/usr/bin/env bash
# Makes the bundle of GPU checks, for a machine that has a driver, Python with PyTorch 2.11.0, and nothing of Debian's:
#   tests/gpu/bundle.sh OUT.tar.gz [BUILD_DIR]
# BUILD_DIR (default: build) holds all programs, ham-trainer-cuda too. The bundle unpacks to ham-gpu/, whose run.sh says
# how it is used. At most 60 MB; the data set travels apart.
set -euo pipefail
out=$(realpath -m "${1:?where to: OUT.tar.gz}")
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(realpath "${2:-$root/build}")
[ -x "$build/bin/ham-trainer-cuda" ] || {
  echo "bundle.sh: $build has no ham-trainer-cuda: run deploy/get_libtorch.sh --cuda and build again" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/ham-gpu
mkdir -p "$bundle/lib"
cmake --install "$build" --component gpu-bundle --prefix "$bundle" --strip >/dev/null
# What is Debian's. LibTorch's and NVIDIA's libraries lie elsewhere; those of the C and C++ run time are the machine's.
for program in "$bundle"/bin/*; do ldd "$build"/*/"$(basename "$program")"; done |
  awk '$3 ~ "^(/usr)?/lib/" { print $3 }' | sort -u |
  grep -vE '/(ld-linux-x86-64|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s|gomp))\.so' |
  xargs -I{} cp -L {} "$bundle/lib/"
cp "$root/tests/gpu/run.sh" "$bundle/"
(cd "$root" && cp --parents tests/gpu/{stages,service,peers}.py tests/support/cluster.py tests/interop/pytorch_peer.py \
  deploy/export_pytorch.py "$bundle/")
python3 -B "$root/tests/gpu/specs.py" "$build/bin/hamctl" "$bundle/specs"
commit=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
git -C "$root" diff --quiet HEAD 2>/dev/null || commit+=" with changes"
echo "$commit" >"$bundle/COMMIT"
mkdir -p "$(dirname "$out")"
tar -C "$work" -czf "$out.new" ham-gpu
size=$(stat -c %s "$out.new")
[ "$size" -le 60000000 ] || { echo "bundle.sh: $((size / 1000000)) MB, more than 60: see what grew" >&2; rm "$out.new"; exit 1; }
mv "$out.new" "$out"
echo "$out: $((size / 1000)) kB"
