"""Topic base: build times, trainer speed, quickstart."""
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from figure import Figure, Skip

ROUNDS = 5
# In Python the wheel loads all of its CUDA libraries: 2.5 GB to download, once.
PEER_PACKAGES = ["torch==2.11.0", "numpy==2.1.3"]
PEER_PACKAGES_ALONE = ["pyautoattack==0.2.0"]  # its dependencies are above


def libtorch_root():
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return pathlib.Path(os.environ.get("HAM_LIBTORCH", f"{cache}/ham/libtorch-2.11.0-cpu"))


def run(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def clean_build_seconds(root, *cmake_options):
    """Configure excluded, compiler cache off, one run (it takes minutes)."""
    environment = dict(os.environ, CCACHE_DISABLE="1")
    with tempfile.TemporaryDirectory() as folder:
        run(["cmake", "-G", "Ninja", "-S", root, "-B", folder, *cmake_options], env=environment)
        start = time.monotonic()
        run(["ninja", "-C", folder, "-j", "2"], env=environment)
        return time.monotonic() - start


def control_plane_build(root):
    seconds = clean_build_seconds(root, "-DHAM_TRAINER=OFF", "-DHAM_TESTS=OFF")
    return seconds, "three control-plane programs, clean, ninja -j 2, no compiler cache, one run"


def whole_build(root):
    return clean_build_seconds(root), "all programs and tests, clean, ninja -j 2, no compiler cache, one run"


def built(root):
    run([root / "deploy" / "get_libtorch.sh"])
    run([root / "deploy" / "build.sh"])
    return root / "build" / "bin" / "ham-trainer"


def peer_python():
    """A Python with PyTorch of the trainer's version; its venv is kept beside LibTorch."""
    venv = libtorch_root().with_name("peer-venv")
    python = venv / "bin" / "python"
    marker, marker_alone = venv / "complete", venv / "complete_alone"
    if not marker.exists() or marker.read_text() != repr(PEER_PACKAGES):
        shutil.rmtree(venv, ignore_errors=True)
        if shutil.disk_usage(venv.parent).free < 8e9:
            raise Skip(f"PyTorch for Python needs 8 GB below {venv.parent}")
        run([sys.executable, "-m", "venv", venv])
        run([python, "-m", "pip", "install", "-q", *PEER_PACKAGES])
        marker.write_text(repr(PEER_PACKAGES))
    if not marker_alone.exists() or marker_alone.read_text() != repr(PEER_PACKAGES_ALONE):
        run([python, "-m", "pip", "install", "-q", "--no-deps", *PEER_PACKAGES_ALONE])
        marker_alone.write_text(repr(PEER_PACKAGES_ALONE))
    return python


SPEC = {
    "data": {"name": "fashion-mnist", "test_rows": 16, "validation_share": 0}, "method": {"name": "pgd-at"},
    "attack": {"epsilon": 0.1, "step_size": 0.025, "steps": 10}, "optimizer": {"schedule": "constant"},
    "epochs": 1, "batch_size": 128, "ema_decay": 0,
    "evaluation": {"every_epochs": 0, "suites": [{"name": "quick", "attacks": [{"steps": 1, "step_size": 0.1}]}]},
}


def spec(trainer, **settings):
    """SPEC with its defaults; a setting is the path of a field below train, with __ for the dots."""
    with tempfile.TemporaryDirectory() as folder:
        job = pathlib.Path(folder) / "job.yaml"
        job.write_text(json.dumps({"train": SPEC}))
        command = [trainer.with_name("hamctl"), "submit", "--dry-run", job, "-o", "json"]
        for path, value in settings.items():
            command += ["--set", f"train.{path.replace('__', '.')}={value}"]
        return json.loads(run(command))


def median_with_range(values):
    return statistics.median(values), f"median of {len(values)}, {min(values):.3g} to {max(values):.3g}"


def trainer_against_pytorch(root):
    trainer = built(root)
    python = peer_python()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        job = pathlib.Path(folder) / "job.json"
        job.write_text(json.dumps(spec(trainer)))
        for _ in range(ROUNDS):
            ours = json.loads(run([trainer, "bench", "--spec", job, "--iterations", 20, "--json"]).splitlines()[-1])
            peer = json.loads(run([python, root / "tests/benchmark/pytorch_pgd_loop.py", "--threads", 1, "--batch", 128,
                                   "--steps", 10, "--iterations", 10]).splitlines()[-1])
            ratios.append(ours["images_per_second"] / peer["images_per_second"])
    value, spread = median_with_range(ratios)
    return value, ("cnn-16-32, PGD-10 + step, batch 128, one thread, fp32, against PyTorch's plain Python loop, "
                   f"interleaved; {spread}")


def two_ranks(root):
    from ranks_figures import two_ranks as measure  # which needs this module
    return measure(root, "pgd-at")


_quickstart = {}


def quickstart(root):
    """Runs the quickstart over three seeds, once for all figures that need it."""
    if not _quickstart:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "result.json"
            out = run([root / "deploy/quickstart.sh", "--seeds", "0,1,2", "--json", path])
            starts = [int(s) for s in re.findall(r"== job pgd-at, seed \d+ \(at (\d+) s\)", out)]
            ends = [*starts[1:], int(re.search(r"== result .*\(at (\d+) s\)", out).group(1))]
            _quickstart["minutes"] = [(end - start) / 60 for start, end in zip(starts, ends)]
            _quickstart["result"] = json.loads(path.read_text())
    return _quickstart


def quickstart_minutes(root):
    value, spread = median_with_range(quickstart(root)["minutes"])
    return value, f"three jobs with their evaluation; {spread}"


def worst_class_gain(root):
    result = quickstart(root)["result"]
    gains, prices, strong = [], [], []
    for seed, ham in result["ham"].items():
        base = result["pgd-at"][seed]
        gains.append(ham["pgd-20 worst"] - base["pgd-20 worst"])
        prices.append(ham["pgd-20"] - base["pgd-20"])
        strong.append(ham["strong worst"] - base["strong worst"])
    value, spread = median_with_range(gains)
    return value, (f"HAM q=0 - PGD-AT, PGD-20 worst class, seeds {', '.join(result['ham'])}; {spread}; average "
                   f"{statistics.median(prices):+.1f}; strong worst class {statistics.median(strong):+.1f}")


def first_metric(root):
    """From a fresh clone with empty caches; Debian's packages are there already."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, XDG_CACHE_HOME=f"{folder}/cache", CCACHE_DISABLE="1")
        environment.pop("HAM_LIBTORCH", None)
        start = time.monotonic()
        run(["git", "clone", "-q", root, f"{folder}/ham"])
        process = subprocess.Popen([f"{folder}/ham/deploy/quickstart.sh"], env=environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        seconds = None
        for line in process.stdout:
            if re.search(r"pgd-20.*\d", line):
                seconds = time.monotonic() - start
                break
        process.terminate()
        process.stdout.read()
        process.wait(timeout=120)
        if seconds is None:
            raise RuntimeError("the quickstart ended without a robust metric")
        return seconds / 60, "clone, empty caches, Debian packages already there, one run"


def test_minutes(root):
    """From a fresh clone; Debian's packages and LibTorch are there."""
    with tempfile.TemporaryDirectory() as folder:
        run(["git", "clone", "-q", root, f"{folder}/ham"])
        start = time.monotonic()
        run([f"{folder}/ham/tests/run.sh"], env=dict(os.environ, CCACHE_DISABLE="1"))
        return (time.monotonic() - start) / 60, "clone, build and tests; Debian packages and LibTorch there, one run"


FIGURES = [
    Figure("control_plane_build", 90, " s", False, control_plane_build),
    Figure("whole_build", 360, " s", False, whole_build),
    Figure("first_robust_metric", 10, " min", False, first_metric),
    Figure("trainer_against_pytorch", 1.3, "x", True, trainer_against_pytorch),
    Figure("two_ranks", 0.93, "x", True, two_ranks),
    Figure("quickstart_minutes", 7, " min", False, quickstart_minutes),
    Figure("worst_class_gain", 15, " points", True, worst_class_gain),
    Figure("test_minutes", 12, " min", False, test_minutes),
]
