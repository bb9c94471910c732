#!/bin/sh
# Fetches LibTorch (pinned PyPI wheels) and unpacks it:
#   deploy/get_libtorch.sh [--cuda] [PREFIX]
# The CPU set is 545 MB to download and 1.2 GB on disk; --cuda, the set of ham-trainer-cuda, 2.6 GB and 4.1 GB.
# PREFIX: the argument, or HAM_LIBTORCH (HAM_LIBTORCH_CUDA), or ham/libtorch-2.11.0-cpu (-cuda) in the user's cache
# folder, which is where CMake looks. A complete prefix is left as it is. May be stopped at any time and run again: the
# prefix appears whole or not at all. Needs python3 >= 3.9 with pip, and sha256sum and flock; no Python at run time.
set -eu

cpu_requirements() {
  cat <<'LIST'
torch==2.11.0 --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
LIST
}
# nvidia-cuda-crt and -cccl hold only headers, which those of the runtime include; -nvcc and nvidia-nvvm are the compiler
# of kernels.
cuda_requirements() {
  cat <<'LIST'
nvidia-cublas==13.1.0.3 --hash=sha256:ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
nvidia-cudnn-cu13==9.19.0.56 --hash=sha256:d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
nvidia-cufft==12.0.0.61 --hash=sha256:6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3
nvidia-cufile==1.15.1.6 --hash=sha256:08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44
nvidia-curand==10.4.0.35 --hash=sha256:1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cusolver==12.0.4.66 --hash=sha256:0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112
nvidia-cusparse==12.6.3.3 --hash=sha256:2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b
nvidia-cusparselt-cu13==0.8.0 --hash=sha256:25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd
nvidia-nccl-cu13==2.28.9 --hash=sha256:e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42
nvidia-nvjitlink==13.0.88 --hash=sha256:13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b
nvidia-nvshmem-cu13==3.4.5 --hash=sha256:290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-nvtx==13.0.85 --hash=sha256:4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4
LIST
}

say() { echo "get_libtorch: $*" >&2; }
fail() { say "$*"; exit 1; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/ham
if [ "${1:-}" = --cuda ]; then
  shift
  megabytes=7000
  prefix=${1:-${HAM_LIBTORCH_CUDA:-$cache/libtorch-2.11.0-cuda}}
  files="torch/lib/libtorch_cuda.so torch/lib/libc10_cuda.so nvidia/nccl/lib/libnccl.so.2 nvidia/cudnn/lib/libcudnn.so.9
    nvidia/cu13/lib/libcublas.so.13 nvidia/cu13/include/crt/host_defines.h nvidia/cu13/include/cusolverDn.h
    nvidia/cu13/bin/nvcc nvidia/cu13/nvvm/bin/cicc"
  requirements() { cpu_requirements; cuda_requirements; }
else
  megabytes=2000
  prefix=${1:-${HAM_LIBTORCH:-$cache/libtorch-2.11.0-cpu}}
  files=
  requirements() { cpu_requirements; }
fi
case $prefix in -*) fail "$prefix is no option: there is only --cuda" ;; esac
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
[ "$((free / 1000))" -ge "$megabytes" ] || fail "$parent has $((free / 1000)) MB free: $megabytes MB are needed"
rm -rf "$new"
mkdir -p "$downloads"

have=$(find "$downloads" -maxdepth 1 -name '*.whl' -exec sha256sum {} +)
requirements | while IFS= read -r line; do
  case $have in *"${line##*sha256:}"*)
    say "have ${line%% *}"
    continue
  esac
  say "fetching ${line%% *}"
  echo "$line" >"$downloads/requirements.txt"
  # Into a folder of its own and then moved: a stopped download never looks like a wheel.
  rm -rf "$downloads/part"
  python3 -m pip --disable-pip-version-check download --quiet --no-cache-dir --no-deps --require-hashes \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi none --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64 \
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
for file in torch/lib/libtorch_cpu.so torch/lib/libc10.so nvidia/cu13/lib/libcudart.so.13 nvidia/cu13/lib/libcupti.so.13 \
  $files; do
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
