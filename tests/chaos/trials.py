"""One thing again and again: kill -9 of one kind of program, or what must not be taken for a fault."""
import json
import os
import random
import signal
import subprocess
import threading
import time

from cluster import Cluster, wait_for
from jobs import PATIENCE_SECONDS, VARIANTS, Stream, Watcher, listed_jobs, spec_of, trainers_of, undisturbed
from outcome import digest_of
from schedule import HANG_BOUND, LEASE, QUICK

OUTSTANDING = 2
SUBMITTERS = 3
EARLY = 0.1  # of the kills come before a checkpoint has got over the last one: the job then waits some seconds
UNREACHABLE, TIMEOUT = 3, 4  # exit codes of hamctl


def run(kind, folder, seed, count, seconds, say):
    """`count` trials, or as many as begin within `seconds`: (count by kind of fault, jobs, digest of what undisturbed
    runs gave, what broke)."""
    kills, jobs, digest, problems = KINDS[kind](folder, random.Random(seed), seed, Goal(count, seconds), say)
    return {COUNTED[kind]: kills}, jobs, digest, problems


class Goal:
    """How many trials are wanted, and until when."""

    def __init__(self, count, seconds):
        self.count = count
        self._end = time.monotonic() + seconds

    def is_open(self, done):
        return done < self.count and time.monotonic() < self._end


# ---- under training

def _training(kill, ranks_run_on):
    """`kill`(cluster, chance) kills one and starts it again; False when there was none to kill."""
    def trial(folder, chance, seed, goal, say):
        with Cluster(workers=2, folder=folder, options=QUICK) as cluster:
            expected, first = undisturbed(cluster)
            stream = Stream(cluster, seed, OUTSTANDING, VARIANTS, expected, first)
            stream.start()
            done, seen, early = 0, 0, False
            while goal.is_open(done) and not stream.problems:
                if not early and stream.checkpoints() == seen:
                    time.sleep(0.2)
                    continue
                time.sleep(chance.uniform(0.0, 2.0))
                seen, early = stream.checkpoints(), chance.random() < EARLY
                killed = kill(cluster, chance)
                done += killed
                if killed and done % 10 == 0:
                    say(f"{done} of {goal.count}, {len(stream.ended)} jobs")
            stream.submit_no_more()
            _finish(stream, ranks_run_on)
        return done, len(stream.ended), digest_of(expected), stream.problems
    return trial


def _finish(stream, ranks_run_on):
    try:
        wait_for(stream.idle, "the end of all jobs", PATIENCE_SECONDS)
        stream.judge_all()
        if ranks_run_on:
            stream.problems += stream.interruptions
    except AssertionError as error:
        stream.problems.append(f"{error}; left: {sorted(stream.running)}")
    stream.close()


def _kill_coordinator(cluster, chance):
    if not any(cluster.trainers(name) for name in cluster.workers):
        return 0
    cluster.coordinator.kill()
    cluster.coordinator.wait()
    time.sleep(chance.uniform(0.0, 0.5))
    cluster.start_coordinator()
    return 1


def _kill_trainer(cluster, chance):
    trainers = [pid for name in sorted(cluster.workers) for pid in cluster.trainers(name)]
    if not trainers:
        return 0
    try:
        os.kill(chance.choice(trainers), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def _kill_agent(cluster, chance):
    busy = [name for name in sorted(cluster.workers) if cluster.trainers(name)]
    if not busy:
        return 0
    name = chance.choice(busy)
    cluster.workers[name].kill()
    cluster.workers[name].wait()
    time.sleep(chance.uniform(0.0, 0.5))
    cluster.start_worker(name)
    return 1


# ---- under submissions

class _Submitter(threading.Thread):
    """Submits one job after the other, each until it is acknowledged."""

    def __init__(self, cluster, number, seed):
        super().__init__(daemon=True)
        self.cluster, self.number, self.seed = cluster, number, seed
        self.names = []
        self.problem = None
        self.stop = threading.Event()

    def run(self):
        path = self.cluster.write_spec(spec_of(VARIANTS[0]), f"submitter-{self.number}.yaml")
        while not self.stop.is_set():
            request = f"trial-{self.seed}-{self.number}-{len(self.names)}"
            while True:
                done = self.cluster.hamctl("submit", path, "--request-id", request, "-o", "json", check=None)
                if done.returncode == 0:
                    self.names.append(json.loads(done.stdout)["name"])
                    break
                if done.returncode not in (UNREACHABLE, TIMEOUT):
                    self.problem = f"a good spec was refused: {done.stderr.strip()}"
                    return


def _submissions(folder, chance, seed, goal, say):
    with Cluster(workers=0, folder=folder) as cluster:
        submitters = [_Submitter(cluster, number, seed) for number in range(SUBMITTERS)]
        for submitter in submitters:
            submitter.start()
        problems, done = [], 0
        while goal.is_open(done) and not problems:
            time.sleep(chance.uniform(0.0, 0.4))
            acknowledged = {name for submitter in submitters for name in list(submitter.names)}
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            cluster.start_coordinator()
            done += 1
            lost = acknowledged - {job["name"] for job in listed_jobs(cluster)}
            problems += [f"{name} was acknowledged and is lost" for name in sorted(lost)]
            problems += [submitter.problem for submitter in submitters if submitter.problem]
            if done % 10 == 0:
                say(f"{done} of {goal.count}, {len(acknowledged)} jobs")
        for submitter in submitters:
            submitter.stop.set()
        for submitter in submitters:
            submitter.join()
        names = [name for submitter in submitters for name in submitter.names]
        listed = {job["name"] for job in listed_jobs(cluster)}
        if len(set(names)) != len(names):
            problems.append("one job was given to two requests")
        twice = sorted(listed - set(names))
        problems += [f"{name} was made by a request that another job was made by" for name in twice]
    return done, len(names), "-", problems


# ---- ranks that are stopped, but not for long

def _short_stops(folder, chance, seed, goal, say):
    """Three jobs train, and one rank of each is stopped again and again for 0.5 to 0.95 of the bound of known ticks."""
    sizes = [2, 1, 1]
    with Cluster(workers=sum(sizes), folder=folder, options=["--hang-bound", f"{HANG_BOUND}s"]) as cluster:
        goal.count = -(-goal.count // len(sizes))
        lanes = [_Lane(cluster, f"{seed} {number}", size, goal) for number, size in enumerate(sizes)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    return sum(lane.stops for lane in lanes), len(lanes), "-", [lane.problem for lane in lanes if lane.problem]


class _Lane(threading.Thread):
    def __init__(self, cluster, seed, world_size, goal):
        super().__init__(daemon=True)
        self.cluster, self.goal, self.chance = cluster, goal, random.Random(seed)
        self.name_of_job = cluster.submit(spec_of({"world_size": world_size, "seed": 1}, epochs=100_000))
        self.stops, self.problem = 0, None

    def run(self):
        job = self.name_of_job
        watcher = Watcher(self.cluster, job, self.cluster.path / (job.rsplit("/", 1)[1] + ".watched"))
        try:
            while self.goal.is_open(self.stops):
                checkpoints = self._events(watcher, "CHECKPOINT_COMMITTED")
                wait_for(lambda: self._events(watcher, "CHECKPOINT_COMMITTED") >= checkpoints + 2, f"{job} to go on",
                         PATIENCE_SECONDS)
                trainers = trainers_of(self.cluster, job, attempt=1)
                pid = self.chance.choice(trainers)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.chance.uniform(0.5, 0.95) * HANG_BOUND / 2)
                os.kill(pid, signal.SIGCONT)
                self.stops += 1
            now = self.cluster.job(job)
            if (now["state"], now["attempt"]) != ("RUNNING", 1):
                self.problem = f"{job} is {now['state']} in attempt {now['attempt']}: {now.get('state_message')}"
        except Exception as error:
            now = self.cluster.job(job)
            self.problem = f"{error!r}; {job} is {now['state']} in attempt {now['attempt']}: {now.get('state_message')}"
        finally:
            watcher.kill()
            self.cluster.hamctl("cancel", job, check=None)

    @staticmethod
    def _events(watcher, reason):
        return sum(record.get("event", {}).get("reason") == reason for record in watcher.records())


# ---- nothing is broken, but there is little time

def loaded(folder, seed, seconds, load):
    """As run(); the count is of minutes. Jobs train beside `load` processes that do nothing else: none may fail."""
    with Cluster(workers=2, folder=folder, options=["--lease", f"{LEASE}s"]) as cluster:
        expected, first = undisturbed(cluster)
        stream = Stream(cluster, seed, OUTSTANDING, VARIANTS, expected, first)
        spin = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", "while :; do :; done"]
        busy = [subprocess.Popen(spin) for _ in range(load)]
        try:
            stream.start()
            time.sleep(seconds)
            stream.submit_no_more()
            _finish(stream, ranks_run_on=True)
        finally:
            for process in busy:
                process.kill()
                process.wait()
    return {"minute": int(seconds // 60)}, len(stream.ended), digest_of(expected), stream.problems


KINDS = {
    "stop": _short_stops,
    "coordinator": _submissions,
    "coordinator-training": _training(_kill_coordinator, ranks_run_on=True),
    "trainer": _training(_kill_trainer, ranks_run_on=False),
    "agent": _training(_kill_agent, ranks_run_on=False),
}
COUNTED = {"stop": "stop_trainer", "coordinator": "kill_coordinator", "coordinator-training": "kill_coordinator",
           "trainer": "kill_trainer", "agent": "kill_agent"}
