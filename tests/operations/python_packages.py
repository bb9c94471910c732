"""The packages of a requirements file, in build/python; fetched when they are missing."""
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def environment_with(requirements):
    """Of a program in Python that imports them."""
    folder = ROOT / "build" / "python" / requirements.parent.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = requirements.read_text()
    with open(folder.with_suffix(".lock"), "w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "made-from"
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target",
                            folder, "-r", requirements], check=True)
            made.write_text(wanted)
    return dict(os.environ, PYTHONPATH=str(folder))
