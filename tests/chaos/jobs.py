"""A stream of small training jobs, each with a watcher, and what must be true of all of them at the end."""
import json
import subprocess
import threading

import cluster as base
from outcome import digest_of, gaps, interruptions, outcome_of

SMALL = {
    "data": {"name": "fashion-mnist", "train_rows": 128, "test_rows": 32, "validation_share": 0},
    "batch_size": 32, "epochs": 20, "retry": {"max_attempts": 1000},
    "evaluation": {"every_epochs": 0, "suites": [{"name": "pgd-2", "attacks": [{"steps": 2, "step_size": 0.05}]}]},
}
PATIENCE_SECONDS = 600  # for all that is healthy, on a busy machine
PGD_AT = {"name": "pgd-at"}
VARIANTS = [
    {"world_size": 2, "seed": 1}, {"world_size": 1, "seed": 2}, {"world_size": 2, "seed": 3, "method": PGD_AT},
    {"world_size": 1, "seed": 4, "method": PGD_AT},
]


def spec_of(variant, **changes):
    return base.spec(**{**SMALL, **variant, **changes})


class Watcher:
    """`hamctl watch` of a job, into a file."""

    def __init__(self, cluster, job, path):
        self.path, self._read, self._records = path, 0, []
        with open(path, "wb") as out, open(path.with_suffix(".err"), "wb") as error:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(base.BIN / "hamctl"), "watch", job, "-o", "json"],
                env=cluster.environment, stdout=out, stderr=error)

    def poll(self):
        return self._process.poll()

    def kill(self):
        self._process.kill()
        self._process.wait()

    def records(self):
        """As many as were written whole, in a list that grows from call to call."""
        with open(self.path, "rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._read += whole
        self._records += [json.loads(line) for line in text[:whole].split(b"\n") if line.startswith(b"{")]
        return self._records

    def error(self):
        return self.path.with_suffix(".err").read_text(errors="replace")


class Stream:
    """Keeps `outstanding` jobs submitted and unfinished, and watches each, in a thread of its own."""

    def __init__(self, cluster, seed, outstanding, variants, expected, others):
        """`expected`, `others`: what undisturbed() gave, of as many variants."""
        self.cluster, self.outstanding, self.variants, self.expected = cluster, outstanding, variants, expected
        self._others = set(others)
        self.jobs = {}      # name: index of its variant
        self.running = {}   # name: Watcher
        self.ended = []     # names, in order
        self.problems = []
        self.interruptions = []  # attempts that ended while their ranks ran, one sentence each
        self._watched = {}  # name: digest of the log that its watcher saw to the end
        self._seed, self._asked = seed, 0
        self._open = None   # (request id, variant) not acknowledged yet
        self._submitting = True
        self._stop = threading.Event()
        self._folder = cluster.path / "watched"
        self._folder.mkdir(exist_ok=True)
        self._streams = 0
        self._lock = threading.Lock()  # of what the thread and others change
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self._thread.start()

    def submit_no_more(self):
        self._submitting = False

    def idle(self):
        """After submit_no_more(): every job has ended."""
        return not self.running and self._open is None

    def close(self):
        self._stop.set()
        self._thread.join()
        for watcher in self.running.values():
            watcher.kill()

    def checkpoints(self):
        """Of the jobs that run, as far as their watchers know."""
        watchers = list(self.running.values())
        return sum(watcher.path.read_bytes().count(b"CHECKPOINT_COMMITTED") for watcher in watchers)

    def kill_a_watcher(self, pick):
        with self._lock:
            names = sorted(self.running)
            if names:
                self.running[names[int(pick * len(names))]].kill()
        return bool(names)

    def _run(self):
        try:
            while not self._stop.wait(0.05):
                self._collect()
                if self._open is not None or (self._submitting and len(self.running) < self.outstanding):
                    self._submit()
        except Exception as error:
            self.problems.append(f"the stream of jobs broke: {error!r}")
            raise

    def _submit(self):
        if self._open is None:
            self._open = (f"chaos-{self._seed}-{self._asked}", self._asked % len(self.variants))
            self._asked += 1
        request, variant = self._open
        path = self.cluster.write_spec(spec_of(self.variants[variant]), "stream.yaml")
        done = self.cluster.hamctl("submit", path, "--request-id", request, "-o", "json", "--timeout", "3s", check=None)
        if done.returncode == 2:
            raise AssertionError(f"a good spec was refused: {done.stderr}")
        if done.returncode != 0:
            return  # not acknowledged: asked again with the same id
        name = json.loads(done.stdout)["name"]
        self._open = None
        if name in self.jobs:
            self.problems.append(f"request {request} gave {name}, which another one had made")
        with self._lock:
            self.jobs[name] = variant
            self.running[name] = self._watch(name)

    def _watch(self, name):
        self._streams += 1
        return Watcher(self.cluster, name, self._folder / f"{name.rsplit('/', 1)[1]}.{self._streams}")

    def _collect(self):
        for name, watcher in list(self.running.items()):
            code = watcher.poll()
            if code is None:
                continue
            if wrong := gaps(watcher.records()):
                self.problems.append(f"{name}: a stream was not complete: {'; '.join(wrong)}")
            with self._lock:
                if code == 0:
                    del self.running[name]
                elif code == 1:
                    del self.running[name]
                    self.problems.append(f"{name} did not succeed: {watcher.error().strip()}")
                    continue
                else:  # killed, or nobody answered: from the beginning again
                    self.running[name] = self._watch(name)
                    continue
            self._judge(name, watcher.records())

    def _judge(self, name, records):
        outcome, wrong = outcome_of(records)
        if not wrong and outcome != self.expected[self.jobs[name]]["outcome"]:
            wrong = ["its metrics are not those of an undisturbed run"]
        self.problems += [f"{name}: {one}" for one in wrong]
        self.interruptions += [f"{name}: {one}" for one in interruptions(records)]
        self.ended.append(name)
        self._watched[name] = digest_of(records)

    def judge_all(self):
        """When all have ended: no job is lost or was made twice, logs read anew are what was watched live, and weights
        are those of undisturbed runs (where the checkpoint was not taken away)."""
        listed = [job["name"] for job in listed_jobs(self.cluster)]
        lost = sorted(set(self.jobs) - set(listed))
        made_twice = sorted(set(listed) - set(self.jobs) - self._others)
        self.problems += [f"{name} was acknowledged and is lost" for name in lost]
        self.problems += [f"{name} was made by a request that another job was made by" for name in made_twice]
        for name in self.ended:
            if name in lost:
                continue
            records = self.cluster.records(name)
            if wrong := gaps(records):
                self.problems.append(f"{name}: its log is not complete: {'; '.join(wrong)}")
            if self._watched[name] != digest_of(records):
                self.problems.append(f"{name}: its log read anew is not the one that was watched")
            parameters = parameters_of(self.cluster, name)
            if parameters is not None and parameters != self.expected[self.jobs[name]]["parameters"]:
                self.problems.append(f"{name}: its weights are not those of an undisturbed run")


def listed_jobs(cluster):
    answer = json.loads(cluster.hamctl("list", "--limit", 1000000, "-o", "json").stdout)
    return answer["jobs"] if isinstance(answer, dict) else answer


def parameters_of(cluster, name):
    """Digest of the weights of the job's newest checkpoint; None where its manifest is not there any more."""
    digest = cluster.job(name)["checkpoint"]["manifest_digest"]
    manifest = cluster.path / "state" / "artifacts" / digest[:2] / digest
    return json.loads(manifest.read_text())["parameters_digest"] if manifest.exists() else None


def trainers_of(cluster, job, attempt):
    """pids of its ranks, by rank."""
    found = {}
    for name in sorted(cluster.workers):
        work = cluster.path / name / "work" / job.rsplit("/", 1)[1] / str(attempt)
        ranks = [int(rank.name) for rank in work.glob("*")] if work.exists() else []
        if len(ranks) == 1:  # workers of one slot
            found.update(zip(ranks, cluster.trainers(name)))
    return [found[rank] for rank in sorted(found)]


def undisturbed(cluster, variants=VARIANTS):
    """What each variant computes when nothing happens to it, and the jobs that told."""
    names = [cluster.submit(spec_of(variant)) for variant in variants]
    results = []
    for name in names:
        cluster.wait_state(name, "SUCCEEDED", seconds=PATIENCE_SECONDS)
        outcome, wrong = outcome_of(cluster.records(name))
        if wrong:
            raise AssertionError(f"undisturbed {name}: {'; '.join(wrong)}")
        results.append({"outcome": outcome, "parameters": parameters_of(cluster, name)})
    return results, names
