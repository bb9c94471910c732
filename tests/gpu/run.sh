#!/usr/bin/env bash
# Runs the GPU checks of an unpacked bundle on a machine with an NVIDIA driver and PyTorch 2.11.0 for Python.
#   run.sh [--rehearse] [--seconds N] [--comparisons NAME,NAME] [--rounds N] DATA OUT [STAGE...]
# DATA: a folder with the files of CIFAR-10's binary version (data_batch_1.bin ... test_batch.bin, also as .xz).
# OUT gets results.json, the log of each program, and what they wrote. STAGE: correctness, epochs, evaluation,
# autoattack, service, benchmarks; without one all, in this order, which takes about 22 minutes; --seconds ends what is not
# done by then. service is a coordinator and a worker with jobs on the GPU, one of which is stopped and killed.
# Of the benchmarks, --comparisons names those that are made (default: all), and --rounds how often each program has its
# turn (5). --rehearse runs all in small on the CPU: its speeds mean nothing. $PYTHON is the Python that has PyTorch (default: python3).
# Exit status: 0 all passed, 1 something failed, 2 a wrong call or no PyTorch, 3 no GPU.
set -euo pipefail
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "run.sh: there is no $python: name a Python by PYTHON" >&2; exit 2; }
exec "$python" -B "$(dirname "$0")/tests/gpu/stages.py" "$@"
