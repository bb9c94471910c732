"""Topic operations: what it costs to watch a cluster.

The coordinator cannot have a thousand jobs at work here: scrape_benchmark serialises a snapshot that has them, and a
real coordinator is scraped over HTTP with none and with one.
"""
import functools
import json
import os
import re
import statistics
import sys
import time
import urllib.request

from base_figures import built, run
from figure import Figure, Skip

ROUNDS = 30
JOBS = [0, 100, 1000]


@functools.lru_cache
def serialised(root, jobs):
    program = root / "build" / "tests" / "scrape_benchmark"
    if not program.exists():
        raise Skip(f"no {program.relative_to(root)}: deploy/build.sh -DHAM_TESTS=ON")
    return json.loads(run([program, jobs, ROUNDS]))


def spread(values):
    return f"median of {len(values)} {statistics.median(values):.3g}, {min(values):.3g} to {max(values):.3g} ms"


def thousand_jobs(root):
    parts = []
    for jobs in JOBS:
        out = serialised(root, jobs)
        parts.append(f"{jobs} jobs: {out['series']} series, {out['bytes'] / 1e6:.2g} MB, {spread(out['ours_ms'])}")
    return statistics.median(serialised(root, JOBS[-1])["ours_ms"]), (
        "from the snapshot to the text; " + "; ".join(parts))


def against_registry(root):
    out = serialised(root, JOBS[-1])
    ours, peer = statistics.median(out["ours_ms"]), statistics.median(out["peer_ms"])
    return ours / peer, (
        f"{JOBS[-1]} jobs of 30 series, from a snapshot against prometheus-cpp's own registry with the same series, in "
        f"turn: {spread(out['ours_ms'])}; the registry, collected and serialised: {spread(out['peer_ms'])}")


def http_scrapes(address):
    """(milliseconds each, bytes of the last)"""
    times, text = [], b""
    for _ in range(ROUNDS):
        start = time.monotonic()
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
            text = response.read()
        times.append((time.monotonic() - start) * 1e3)
    return times, len(text)


def over_http(root):
    os.environ["HAM_BIN"] = str(built(root).parent)
    sys.path.insert(0, str(root / "tests" / "support"))
    from cluster import LONG, Cluster, spec, wait_for

    def has_metrics():
        with urllib.request.urlopen(f"http://{cluster.metrics}/metrics", timeout=60) as response:
            return b"ham_job_images_per_second{" in response.read()
    with Cluster(workers=1) as cluster:
        none, none_bytes = http_scrapes(cluster.metrics)
        job = cluster.submit(spec(world_size=1, **LONG))
        wait_for(has_metrics, "the first metrics of the job")
        one, one_bytes = http_scrapes(cluster.metrics)
        cluster.hamctl("cancel", job)
        cluster.wait_state(job, "CANCELLED")
    return max(one), (
        f"worst, a coordinator with a worker on this machine, no job: {none_bytes / 1e3:.3g} kB, {spread(none)}; one in "
        f"training: {one_bytes / 1e3:.3g} kB, {spread(one)}")


def seen_live(what):
    """Share of `what` in the line `N of N WHAT ...` of the last result of live.py."""
    def read(root):
        path = root / "tests" / "operations" / "live_result.txt"
        if not path.exists():
            raise Skip(f"no {path.relative_to(root)}")
        text = path.read_text()
        good, count = re.search(rf"^(\d+) of (\d+) {what}", text, re.M).groups()
        head = text.splitlines()[0].removeprefix("# By ")
        return 100 * int(good) / int(count), f"{good} of {count}, read from {path.relative_to(root)}: {head}"
    return read


def packages_installed(root):
    """What the last whole run of packages_test.py saw; it fails where a purge leaves anything."""
    path = root / "tests" / "deploy" / "packages_result.json"
    if not path.exists():
        raise Skip(f"no {path.relative_to(root)}: tests/long_checks.sh RESULTS packages")
    seen = json.loads(path.read_text())
    sizes = ", ".join(f"{name} {size} MiB ({seen['installed_mebibytes'][name]} installed)"
                      for name, size in sorted(seen["package_mebibytes"].items()))
    return seen["install_to_first_metric_seconds"], (
        f"apt-get install in a Debian 12 under systemd, dependencies downloaded before, until /metrics answers; {sizes}; "
        f"upgraded while it trained, purged without a trace; read from {path.relative_to(root)}, {seen['date']}")


FIGURES = [
    Figure("scrape of 1,000 jobs of 30 series", 60, " ms", False, thousand_jobs),
    Figure("scrape of 1,000 jobs, of what prometheus-cpp's registry takes", 1, "x", False, against_registry),
    Figure("scrape of a coordinator at work over HTTP", 60, " ms", False, over_http),
    Figure("panels with data", 100, " %", True, seen_live("panels")),
    Figure("alerts that fire as they should", 100, " %", True, seen_live("alerts")),
    Figure("packages: from apt-get install to the first metric", 60, " s", False, packages_installed),
]
