"""Two ranks of one host against two unconnected programs side by side, which are the most that the host can give."""
import json
import pathlib
import statistics
import subprocess
import tempfile

from base_figures import built, median_with_range, spec
from figure import Figure

PAIRS = 7
ROWS = 128  # of each rank, in each batch
# Steps of about 10 s; a HAM step works on fewer rows.
ITERATIONS = {"pgd-at": 90, "ham": 110}
HAM = {"method__name": "ham", "method__mining_start_epoch": 1, "method__mining_step": 3}


def bench(trainer, folder, job, groups, iterations):
    """Bench reports of `groups`, lists of ranks, that start together; a group of several ranks is connected."""
    processes = []
    for number, ranks in enumerate(groups):
        for rank in ranks:
            command = [trainer, "bench", "--spec", job, "--rank", rank, "--world-size", len(ranks), "--iterations",
                       iterations, "--json"]
            if len(ranks) > 1:
                command += ["--rendezvous-dir", folder / f"rendezvous-{number}"]
            processes.append(subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE,
                                              stderr=subprocess.PIPE, text=True))
    reports = []
    for process in processes:
        out, error = process.communicate(timeout=500)
        if process.returncode != 0:
            raise RuntimeError(f"bench failed: {error[-1000:]}")
        reports += [json.loads(line) for line in out.splitlines()]
    return reports


def write(folder, name, job):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(job))
    return path


def two_ranks(root, method, **settings):
    trainer = built(root)
    alone = spec(trainer, batch_size=ROWS, **settings)
    group = spec(trainer, batch_size=2 * ROWS, resources__world_size=2, **settings)
    ratios, waits = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for pair in range(PAIRS):
            folder = pathlib.Path(temporary) / str(pair)
            folder.mkdir()
            connected, = bench(trainer, folder, write(folder, "group", group), [[0, 1]], ITERATIONS[method])
            unconnected = bench(trainer, folder, write(folder, "alone", alone), [[0], [0]], ITERATIONS[method])
            ratios.append(connected["images_per_second"] / sum(one["images_per_second"] for one in unconnected))
            waits.append(connected["phases"]["all_reduce"]["share"])
    value, spread = median_with_range(ratios)
    return value, (f"cnn-16-32, PGD-10, fp32, ranks of one thread and {ROWS} rows, against two unconnected programs side "
                   f"by side, interleaved; {spread}; {100 * statistics.median(waits):.1f} % of rank 0's time in the "
                   "all-reduce")


FIGURES = [
    Figure("two ranks, PGD-AT", 0.97, "x", True, lambda root: two_ranks(root, "pgd-at")),
    Figure("two ranks, HAM", 0.94, "x", True, lambda root: two_ranks(root, "ham", **HAM)),
    Figure("two ranks, HAM with rows moved", 0.96, "x", True,
           lambda root: two_ranks(root, "ham", method__balance_ranks="true", **HAM)),
]
