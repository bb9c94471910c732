"""Topic faults: how soon what broke is known and mended, and that nothing healthy is taken for broken.

Moments are those of the job's own events and of the ends of processes. What takes hours is read from the ledgers.
"""
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from base_figures import built, run
from figure import Figure, Skip

ROUNDS = 5
STORED_JOBS = 10_000
LOAD = 8  # processes that do nothing else
LOAD_SECONDS = 120  # an hour at a time by tests/chaos/chaos.py --load, into the ledger
# The 422 k CNN on two workers of one CPU each, a checkpoint about every second.
JOB = {
    "model": {"name": "cnn-32-64"}, "batch_size": 64, "epochs": 10_000, "retry": {"max_attempts": 1000},
    "data": {"name": "fashion-mnist", "train_rows": 512, "test_rows": 64, "validation_share": 0},
    "evaluation": {"every_epochs": 0, "suites": [{"name": "pgd-2", "attacks": [{"steps": 2, "step_size": 0.05}]}]},
}
MANY = json.dumps({"train": {"data": {"name": "fashion-mnist"}, "resources": {"world_size": 64}}})  # fits nowhere


def prepare(root):
    """Modules of the tests, which need HAM_BIN when they are loaded."""
    os.environ["HAM_BIN"] = str(built(root).parent)
    for folder in ("support", "chaos", "client"):
        if str(root / "tests" / folder) not in sys.path:
            sys.path.insert(0, str(root / "tests" / folder))


class Watched:
    """A job that runs, and its events."""

    def __init__(self, cluster, text):
        from jobs import Watcher
        self.cluster = cluster
        self.name = cluster.submit(text)
        self._watcher = Watcher(cluster, self.name, cluster.path / (self.name.rsplit("/", 1)[1] + ".watched"))

    def events(self):
        """(unix seconds, event), oldest first."""
        from cluster import unix_seconds
        records = [record for record in self._watcher.records() if "event" in record]
        return [(unix_seconds(record["time"]), record["event"]) for record in records]

    def wait(self, what, chosen, after=0.0, seconds=120):
        """The first event that is `chosen`(event), later than `after`."""
        from cluster import wait_for
        found = []

        def there():
            found[:] = [one for one in self.events() if one[0] > after and chosen(one[1])]
            return found
        wait_for(there, f"{self.name} to tell: {what}", seconds)
        return found[0]

    def wait_checkpoint(self, after=0.0):
        return self.wait("a checkpoint", lambda event: event["reason"] == "CHECKPOINT_COMMITTED", after)

    def wait_failure(self, after):
        return self.wait("a failed attempt", lambda event: event["to_state"] == "RECOVERING", after)

    def wait_running(self, after):
        return self.wait("all ranks run", lambda event: event["reason"] == "ALL_RANKS_RUNNING", after)

    def close(self):
        self._watcher.kill()
        self.cluster.hamctl("cancel", self.name, check=None)


class Ends:
    """The moments at which processes end."""

    def __init__(self, pids):
        self.moments = []
        self._threads = [threading.Thread(target=self._wait, args=(os.pidfd_open(pid),), daemon=True) for pid in pids]
        for thread in self._threads:
            thread.start()

    def _wait(self, fd):
        select.select([fd], [], [], 60)
        self.moments.append(time.time())
        os.close(fd)

    def last(self):
        for thread in self._threads:
            thread.join()
        return max(self.moments)


@contextlib.contextmanager
def running_job(root, workers=2, options=(), world_size=2):
    prepare(root)
    from cluster import Cluster, spec
    with Cluster(workers=workers, options=options) as cluster:
        job = Watched(cluster, spec(world_size=world_size, **JOB))
        job.wait_checkpoint()
        try:
            yield cluster, job
        finally:
            job.close()


def spread(values):
    return f"worst of {len(values)}; median {statistics.median(values):.2g} s, best {min(values):.2g} s"


def worst(values, how):
    return max(values), f"{how}; {spread(values)}"


# ---- a trainer or an agent is killed

def trainer_killed(root):
    """{"declared": seconds a round, ...}"""
    out = {"declared": [], "aborted": [], "again": []}
    chance = random.Random(1)
    with running_job(root) as (cluster, job):
        for number in range(ROUNDS):
            time.sleep(chance.uniform(0.0, 0.5))
            victim, = cluster.trainers(f"worker-{number % 2}")
            peers = Ends(cluster.trainers(f"worker-{1 - number % 2}"))
            killed = time.time()
            os.kill(victim, signal.SIGKILL)
            out["declared"].append(job.wait_failure(killed)[0] - killed)
            again = job.wait_running(killed)[0]
            out["aborted"].append(peers.last() - killed)
            out["again"].append(again - killed)
            job.wait_checkpoint(again)
    return out


def once(function):
    """Figures of one measurement share it."""
    results = []

    def run(root):
        if not results:
            results.append(function(root))
        return results[0]
    return run


trainer_killed_once = once(trainer_killed)


def killed(what, until):
    how = f"SIGKILL of one of two ranks of the 422 k CNN on 2 CPU workers, {until}"
    return lambda root: worst(trainer_killed_once(root)[what], how)


def agent_killed(root):
    times = []
    with running_job(root) as (cluster, job):
        for number in range(ROUNDS):
            name = f"worker-{number % 2}"
            killed = time.time()
            cluster.workers[name].kill()
            cluster.workers[name].wait()
            times.append(job.wait_failure(killed)[0] - killed)
            cluster.start_worker(name)
            job.wait_checkpoint(job.wait_running(killed)[0])
    return worst(times, "SIGKILL of an agent, whose trainers end with it, to the event of the failed attempt; lease "
                        "15 s")


# ---- a host is gone

def in_child(function, *arguments):
    """function(*arguments) in a forked process, whose namespaces go with it."""
    ours, theirs = multiprocessing.Pipe()

    def run():
        try:
            theirs.send((True, function(*arguments)))
        except BaseException as error:
            theirs.send((False, f"{type(error).__name__}: {error}"))
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    good, value = ours.recv()
    child.join()
    if good:
        return value
    if value.startswith("Unavailable: "):
        raise Skip(value.removeprefix("Unavailable: "))
    raise RuntimeError(value)


def unplugged_hosts():
    """Seconds from the moment a host is cut off to the event of the failed attempt."""
    from cluster import Cluster, spec, wait_for
    from hosts import GATEWAY, Hosts, isolate
    isolate()
    hosts = Hosts(3)
    times = []
    with Cluster(workers=0, listen=f"{GATEWAY}:0", options=["--lease", "3s", "--advertise", GATEWAY]) as cluster:
        for i in range(3):
            cluster.start_worker(f"worker-{i}", prefix=hosts.prefix(i))
        job = Watched(cluster, spec(**JOB))
        job.wait_checkpoint()
        for _ in range(ROUNDS):
            cut = next(i for i in range(3) if cluster.trainers(f"worker-{i}"))
            unplugged = time.time()
            hosts.unplug(cut)
            times.append(job.wait_failure(unplugged)[0] - unplugged)
            again = job.wait_running(unplugged)[0]
            hosts.plug(cut)
            wait_for(lambda: not cluster.trainers(f"worker-{cut}"), "the end of the rank that was cut off")
            job.wait_checkpoint(again)
        job.close()
    hosts.close()
    return times


def host_gone(root):
    prepare(root)
    return worst(in_child(unplugged_hosts), "network of one of 2 ranks' hosts (a namespace) cut, no end seen, "
                                            "--lease 3s, to the event of the failed attempt")


def under_load(root):
    prepare(root)
    import trials
    with tempfile.TemporaryDirectory() as folder:
        _, jobs, _, problems = trials.loaded(pathlib.Path(folder), 1, LOAD_SECONDS, LOAD)
    return len(problems), (f"{LOAD_SECONDS} s with --lease 3s beside {LOAD} busy processes, {jobs} jobs ended, no "
                           "attempt of theirs that ran was given up"
                           + "".join(f"; {problem}" for problem in problems[:3]))


# ---- a rank is stopped

def rank_stopped(root, checkpoints):
    """Stopped `checkpoints` after the ranks started."""
    times = []
    with running_job(root) as (cluster, job):
        from jobs import trainers_of
        for rank in (1, 0):
            for _ in range(checkpoints):
                job.wait_checkpoint(time.time())
            victim = trainers_of(cluster, job.name, cluster.job(job.name)["attempt"])[rank]
            stopped = time.time()
            os.kill(victim, signal.SIGSTOP)
            at, event = job.wait_failure(stopped)
            if event["reason"] != "HANG" or re.findall(r"rank (\d+) on", event["message"]) != [str(rank)]:
                raise RuntimeError(f"rank {rank} was stopped, and the verdict is {event['reason']}: {event['message']}")
            times.append(at - stopped)
            job.wait_checkpoint(job.wait_running(stopped)[0])
    return worst(times, f"SIGSTOP of one of two ranks {checkpoints} checkpoints after the start, default bounds, to "
                        "the verdict, which named this rank only")


# ---- the coordinator is killed

def coordinator_killed(root):
    times = []
    with running_job(root) as (cluster, job):
        submit_many(cluster, STORED_JOBS)
        for _ in range(ROUNDS):
            killed = time.time()
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            cluster.start_coordinator()
            cluster.hamctl("get", job.name)
            times.append(time.time() - killed)
            job.wait_checkpoint(time.time())
        attempt = cluster.job(job.name)["attempt"]
        if attempt != 1:
            raise RuntimeError(f"the job that ran meanwhile is at attempt {attempt}: steps were lost")
    return worst(times, f"SIGKILL to the first answer to hamctl, {STORED_JOBS} jobs stored; the job that trained "
                        "meanwhile stayed in its first attempt, no step lost")


def submit_many(cluster, count):
    """Through Python's gRPC: hamctl would need a process a job."""
    text = cluster.hamctl("submit", cluster.write_spec(MANY), "--dry-run", "-o", "json").stdout
    (cluster.path / "many.json").write_text(text)
    program = pathlib.Path(__file__).with_name("submit_jobs.py")
    done = subprocess.run(["/usr/bin/python3", program, cluster.path, str(count)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


# ---- ledgers

def from_ledger(mode, kind):
    def read(root):
        prepare_ledger(root)
        import ledger
        runs = [run for run in ledger.read() if run.mode == mode]
        if not runs:
            raise Skip(f"no run of {mode} in {ledger.FILE.relative_to(root)}")
        broken = [run for run in runs if run.result != "ok"]
        commits = sorted({run.commit for run in runs if run.result == "ok"})
        return ledger.totals(runs)[mode, kind], (f"read from {ledger.FILE.relative_to(root)}, commits "
                                                 f"{' '.join(commits)}; rows in which something broke: {len(broken)}")
    return read


def prepare_ledger(root):
    if str(root / "tests" / "chaos") not in sys.path:
        sys.path.insert(0, str(root / "tests" / "chaos"))


def simulated(kind, column, result="kept"):
    """Sum over lines `KIND seed=1 commit=c0ffee events=7 ... result=kept` of the simulation's ledger."""
    def read(root):
        path = root / "tests" / "simulation" / "ledger"
        if not path.exists():
            raise Skip(f"no {path.relative_to(root)}")
        runs = [dict(word.split("=", 1) for word in line.split()[1:]) for line in path.read_text().splitlines()
                if line.split()[0] == kind]
        counted = [run for run in runs if run["result"] == result]
        if not counted:
            raise Skip(f"no run of {kind} with result {result} in {path.relative_to(root)}")
        commits = sorted({run["commit"] for run in counted})
        return sum(float(run.get(column, 1)) for run in counted), (
            f"read from {path.relative_to(root)}, commits {' '.join(commits)}; runs that ended otherwise: "
            f"{len(runs) - len(counted)}")
    return read


def simulation_speed(root):
    program = built(root).parent / "simulate"
    if not program.exists():
        raise Skip(f"no {program.relative_to(root)}: deploy/build.sh -DHAM_TESTS=ON")
    rates = []
    for seed in range(1, ROUNDS + 1):
        out = run([program, "walks", "--seed", seed, "--events", 200_000])
        rates.append(float(re.search(r"([0-9]+) events a second", out).group(1)))
    return statistics.median(rates), f"one thread, all faults; median of {ROUNDS}, {min(rates):.0f} to {max(rates):.0f}"


FIGURES = [
    Figure("trainer killed, declared", 1, " s", False, killed("declared", "to the event of the failed attempt")),
    Figure("trainer killed, peer's end", 2, " s", False, killed("aborted", "to the end of the other's process")),
    Figure("trainer killed, training again", 10, " s", False, killed("again", "until all ranks train")),
    Figure("agent killed, declared", 3, " s", False, agent_killed),
    Figure("host gone, declared", 3, " s", False, host_gone),
    Figure("false kills under load 8", 0, "", False, under_load),
    Figure("minutes under load 8 without a false kill", 60, " min", True, from_ledger("load", "minute")),
    Figure("rank stopped, verdict that names it", 60, " s", False, lambda root: rank_stopped(root, 20)),
    Figure("rank stopped at its start, verdict that names it", 60, " s", False, lambda root: rank_stopped(root, 1)),
    Figure("stops below the bound without a kill", 200, "", True, from_ledger("stop", "stop_trainer")),
    Figure("coordinator killed, serving again", 2, " s", False, coordinator_killed),
    Figure("kills of the coordinator", 1000, "", True, from_ledger("coordinator", "kill_coordinator")),
    Figure("kills of the coordinator under training", 200, "", True,
           from_ledger("coordinator-training", "kill_coordinator")),
    Figure("kills of a trainer", 300, "", True, from_ledger("trainer", "kill_trainer")),
    Figure("kills of an agent", 300, "", True, from_ledger("agent", "kill_agent")),
    Figure("simulated events", 10_000_000, "", True, simulated("walks", "events")),
    Figure("simulated events a second", 50_000, "/s", True, simulation_speed),
    Figure("healthy simulated hours without a kill", 1000, " h", True, simulated("healthy", "hours")),
    Figure("healthy runs at half the bounds that kill", 1, "", True, simulated("healthy-bound-0.5", "kills", "BROKEN")),
]
