"""Figures of build/tests/checkpoint_benchmark: what checkpoints cost a run; part of topic engine."""
import functools
import json
import statistics
import subprocess
import tempfile

from figure import Figure

SAVES = 8


@functools.lru_cache
def lines(root):
    with tempfile.TemporaryDirectory() as directory:
        command = [str(root / "build" / "tests" / "checkpoint_benchmark"), directory, str(SAVES)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def spread(values):
    return f"{min(values):.3g} to {max(values):.3g}"


def stop(root):
    plain, average = lines(root)
    return max(plain["stop_ms"]), (
        f"the longest of {SAVES} saves of {plain['bytes'] / 1e6:.0f} MB, one thread; {spread(plain['stop_ms'])}, median "
        f"{statistics.median(plain['stop_ms']):.3g}; written in the background in "
        f"{statistics.median(plain['write_ms']):.3g} ms; with averaged weights ({average['bytes'] / 1e6:.0f} MB) "
        f"{spread(average['stop_ms'])}, median {statistics.median(average['stop_ms']):.3g}")


def restore(root):
    plain, average = lines(root)
    seconds = [value / 1e3 for value in plain["restore_ms"]]
    return statistics.median(seconds), (
        f"median of {SAVES}, from the page cache, digests checked; {spread(seconds)}; with averaged weights "
        f"{statistics.median(average['restore_ms']) / 1e3:.3g}")


FIGURES = [
    Figure("training stops for a checkpoint of PreActResNet-18", 50, " ms", False, stop),
    Figure("restore of a checkpoint of PreActResNet-18", 1, " s", False, restore),
]
