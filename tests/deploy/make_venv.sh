#!/bin/sh
# Makes a Python environment with the packages of requirements.txt; one that is complete is left as it is.
#   make_venv.sh PYTHON VENV
set -eu
requirements=$(dirname "$0")/requirements.txt
if cmp -s "$requirements" "$2/complete"; then exit 0; fi
rm -rf "$2"
"$1" -m venv "$2"
"$2/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --only-binary=:all: --require-hashes \
  --requirement "$requirements"
cp "$requirements" "$2/complete"
