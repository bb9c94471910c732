#!/usr/bin/env bash
# Installs the Debian packages that ham is built from; with `tests` also those its tests need, with `long` also those
# of tests/long_checks.sh, with `containers` also those that build images and run them, with `packages` also those that
# make Debian packages and install them elsewhere.
#   deploy/install_packages.sh [tests|long|containers|packages]
# Does nothing when all are there. Needs root or sudo only when some are missing.
set -euo pipefail
packages=(
  g++ cmake ninja-build git ca-certificates python3 python3-pip
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev prometheus-cpp-dev
  libsqlite3-dev libcli11-dev libyaml-cpp-dev libspdlog-dev nlohmann-json3-dev libssl-dev zlib1g-dev libgloo-dev
  libmatio-dev libturbojpeg0-dev libzip-dev libsystemd-dev curl
  dataset-fashion-mnist
)
set=${1:-}
case $set in
  '' | tests | long | containers | packages) ;;
  *) echo "\"$set\" is no set of packages: leave it out, or say tests, long, containers or packages" >&2; exit 2 ;;
esac
if [ -n "$set" ]; then
  packages+=(libgtest-dev libgmock-dev python3-venv python3-grpcio python3-protobuf procps xz-utils iproute2 prometheus
    systemd shellcheck)
fi
if [ "$set" = long ]; then
  packages+=(clang clang-tidy libclang-rt-dev llvm slurmctld slurmd slurm-client munge)
fi
if [ "$set" = containers ]; then
  packages+=(buildah podman crun debootstrap docker-compose)
fi
if [ "$set" = packages ]; then
  packages+=(dpkg-dev file debootstrap)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "missing packages: ${missing[*]}; install them as root" >&2; exit 1; }
  as_root=(sudo env DEBIAN_FRONTEND=noninteractive)
fi
echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q >/dev/null
"${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
