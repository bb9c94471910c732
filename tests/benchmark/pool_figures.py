"""An evaluation job on two workers against two unconnected evaluations of half the images each, side by side."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from base_figures import built, median_with_range, spec
from figure import Figure

PAIRS = 3
ROWS = 1000
EPSILON = 0.1
STEPS = {"apgd": {"steps": 30}, "apgd-t": {"steps": 30}, "fab-t": {"steps": 30}, "square": {"steps": 1500}}


def start(*command, folder):
    return subprocess.Popen([str(word) for word in command], cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def finish(process):
    error = process.communicate(timeout=1200)[1]
    if process.returncode != 0:
        raise RuntimeError(f"{process.args[:2]} failed: {error[-1000:]}")


def train(trainer, folder):
    """Weights, trained for some seconds, so that a part of the images survives each attack."""
    job = spec(trainer, epochs=2, data__train_rows=20000, data__validation_share=0, attack__epsilon=EPSILON,
               attack__step_size=0.05, attack__steps=3, evaluation__every_epochs=0, method__name="pgd-at")
    (folder / "job.json").write_text(json.dumps(job))
    finish(start(trainer, "--spec", "job.json", "--work-dir", "run", folder=folder))
    checkpoint = next(path for path in sorted((folder / "run" / "checkpoints").iterdir()) if path.is_dir())
    finish(start(trainer, "export", checkpoint, "net.safetensors", folder=folder))
    return folder / "net.safetensors"


def unconnected(trainer, weights, folder):
    attacks = ",".join(f"{name}:steps={options['steps']}" for name, options in STEPS.items())
    begin = time.monotonic()
    shards = [start(trainer, "evaluate", "--weights", weights, "--data", "fashion-mnist", "--rows", ROWS, "--epsilon",
                    EPSILON, "--attacks", attacks, "--shard", f"{i}/2", "--record", folder / f"shard{i}.json",
                    folder=folder) for i in range(2)]
    for shard in shards:
        finish(shard)
    return time.monotonic() - begin


def as_job(cluster, weights):
    from cluster import unix_seconds
    evaluate = {"data": {"name": "fashion-mnist", "rows": ROWS}, "resources": {"world_size": 2},
                "suite": {"epsilon": EPSILON, "attacks": [{"name": name} | options for name, options in STEPS.items()]}}
    name = cluster.submit(json.dumps({"evaluate": evaluate}), "--weights", weights)
    cluster.hamctl("watch", name, check=None, timeout=1200)  # costs nothing, unlike asking again and again
    job = cluster.job(name)
    if job["state"] != "SUCCEEDED":
        raise RuntimeError(job["state_message"])
    return unix_seconds(job["end_time"]) - unix_seconds(job["create_time"])


def two_workers(root):
    trainer = built(root)
    os.environ["HAM_BIN"] = str(trainer.parent)
    sys.path.insert(0, str(root / "tests" / "support"))
    from cluster import Cluster
    ratios = []
    with tempfile.TemporaryDirectory() as temporary, Cluster() as cluster:
        folder = pathlib.Path(temporary)
        weights = train(trainer, folder)
        for pair in range(PAIRS):
            part = folder / str(pair)
            part.mkdir()
            job = as_job(cluster, weights)
            alone = unconnected(trainer, weights, part)
            ratios.append(alone / job)
    value, spread = median_with_range(ratios)
    return value, (f"AutoAttack's four attacks with fewer steps, cnn-16-32, {ROWS} Fashion-MNIST images, from submit to the "
                   f"signed record, against two processes with half of the images each, interleaved; {spread}; the last job "
                   f"took {job:.0f} s")


FIGURES = [Figure("evaluation on two workers, speed of two unconnected ones", 0.95, "x", True, two_workers)]
