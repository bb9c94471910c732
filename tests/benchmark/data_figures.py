"""Figures of the input pipeline, from build/tests/data_benchmark; part of topic engine."""
import functools
import json
import os
import pathlib
import subprocess

from figure import Figure, Skip


@functools.lru_cache
def measured(root):
    """{name: {median, least, most, rounds}}"""
    command = [str(root / "build" / "tests" / "data_benchmark"), "--json"]
    folder = pathlib.Path(os.environ.get("HAM_TEST_DATA", "/nowhere")) / "imagenette-sample"
    if folder.is_dir():
        command.append(str(folder))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}


def spread(entry):
    return f"{entry['least']:.4g} to {entry['most']:.4g}, median of {entry['rounds']} rounds"


def augmentation(root):
    entry = measured(root)["augmentation of 32 x 32 x 3, crop 4 and flip, one thread"]
    return entry["median"], f"random order, batches of 128, one thread; {spread(entry)}"


def decoding(root):
    entries = measured(root)
    if "JPEG to 224, one thread" not in entries:
        raise Skip("HAM_TEST_DATA names no folder with imagenette-sample")
    share = entries["JPEG to 224, of a bare TurboJPEG loop"]
    with_resize = ", ".join(f"to {size}: {entries[f'JPEG to {size}, of a bare TurboJPEG loop']['median']:.3g} %"
                            for size in (160, 32))
    return share["median"], (f"224 x 224 files kept at their size, interleaved with a bare loop of TurboJPEG; "
                             f"{spread(share)}; with the resize, which the bare loop has not: {with_resize}")


def copies(root):
    entries = measured(root)
    one, two, four = (entries[f"Pss of {ranks} ranks with one data set of 146 MiB"] for ranks in (1, 2, 4))
    return four["median"] / one["median"], (
        f"Pss of all ranks together with 146 MiB of images: {one['median']:.1f} MiB for 1, {two['median']:.1f} for 2, "
        f"{four['median']:.1f} for 4; {spread(four)}")


FIGURES = [
    Figure("augmented images a second and core", 100_000, "", True, augmentation),
    Figure("imagenette decode of a bare TurboJPEG loop", 90, " %", True, decoding),
    Figure("data of 4 ranks on a host, in those of 1", 1.1, "", False, copies),
]
