"""A small cluster at work with all that its boards can show, and the faults that provoke its alerts."""
import dataclasses
import json
import os
import time
import typing
import urllib.request

from cluster import Cluster, wait_for
from faults import fill, ranks, shifted_clock, stop
from hosts import Unavailable, isolate, small_disk
from live_prometheus import Prometheus
from schedule import QUICK
from scripted_gpus import scripted_gpus

STATE_MEBIBYTES = 1024
QUOTA = 768 << 20
LEFT_OF_QUOTA = 48 << 20  # a dozen checkpoints
# A new certificate holds for five years, and a coordinator makes one when it starts with less than one year left.
CERTIFICATE_DAYS, DAYS_LEFT, DAY = 5 * 365, 20, 86400
FIRES_SECONDS, CLEARS_SECONDS = 120, 90
JOB_SECONDS = 420  # until what a job's metrics must show, on a busy machine

SUITE = {"name": "pgd-5", "attacks": [{"steps": 5, "step_size": 0.04}]}
PGD_AT = {"name": "pgd-at"}
DATA = {"name": "fashion-mnist", "train_rows": 512, "test_rows": 256, "validation_share": 0.02}
COMMON = {"data": DATA, "attack": {"epsilon": 0.1, "step_size": 0.04, "steps": 3}, "batch_size": 64, "ema_decay": 0.9}
HAM = {"method": {"name": "ham", "mining_step": 1, "mining_start_epoch": 2}, "epochs": 100000,
       "data": {**DATA, "train_rows": 8192}, "checkpoint": {"every_iterations": 32},
       "evaluation": {"every_epochs": 1, "suites": [SUITE]}, "resources": {"world_size": 2}}
# After some 200 iterations on so few images the robustness on others falls.
OVERFITTING = {"method": PGD_AT, "epochs": 1000, "data": {**DATA, "train_rows": 256}, "ema_decay": 0,
               "evaluation": {"every_epochs": 4, "suites": [SUITE]},
               "optimizer": {"learning_rate": 0.003, "schedule": "constant"}}
# A network that has seen little says "Shirt" of hardly any image.
COLLAPSED = {"method": PGD_AT, "epochs": 4, "evaluation": {"every_epochs": 1, "suites": [SUITE]}}
KEEPS_ALL = {"method": PGD_AT, "epochs": 100000, "data": {**DATA, "train_rows": 128},
             "checkpoint": {"keep_every_epochs": 1}, "evaluation": {"every_epochs": 0, "suites": [SUITE]}}
FITS_NOWHERE = {"method": PGD_AT, "epochs": 1, "resources": {"world_size": 64}}
EVALUATION = {"data": {"name": "fashion-mnist"}, "suite": {"name": "autoattack", "epsilon": 0.1}}


@dataclasses.dataclass
class Fault:
    alerts: tuple          # that must fire
    words: str
    beside: tuple = ()     # that may fire as well
    job: str = ""          # of alerts of one job
    heal: typing.Callable = None
    healed_by: str = ""    # "": it is not
    at: float = 0.0        # unix seconds
    healed_at: float = None


class Scene:
    """Use as a context manager. `say` is called with a line at each step."""

    def __init__(self, folder, say):
        self.folder, self.say = folder, say
        self.missing = {}  # alert: why it cannot be provoked here
        self.workers = {}  # name: how it is started
        self.faults = []
        try:
            isolate()
            small_disk(folder / "state", STATE_MEBIBYTES)
        except Unavailable as reason:
            self.missing = {alert: str(reason) for alert in ("HamStoreFailed", "HamStateDiskFull")}
        self.old = Fault(("HamCertificateExpires",), "a coordinator whose clock is "
                         f"{CERTIFICATE_DAYS - DAYS_LEFT} days slow makes its certificate",
                         healed_by="started again with the right clock")
        self._note(self.old)
        # Until the first restart all programs live then: the certificates of now are not valid yet.
        self.cluster = Cluster(workers=0, folder=folder, options=[*QUICK, "--artifact-quota", QUOTA],
                               environment={**os.environ, **shifted_clock((DAYS_LEFT - CERTIFICATE_DAYS) * DAY)})
        try:
            self.prometheus = Prometheus(folder / "prometheus", self.cluster.metrics)
        except BaseException as error:
            self.cluster.__exit__(type(error))
            raise
        self.start = None  # of what counts

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.cluster.__exit__(kind)
        self.prometheus.__exit__()

    # ---- faults

    def _note(self, fault):
        fault.at = time.time()
        self.faults.append(fault)
        self.say(f"{' and '.join(fault.alerts)}: {fault.words}")

    def begin(self, fault, break_it):
        """`break_it`() returns what heals it."""
        wait_for(lambda: not self.prometheus.alerts(fault.job) & set(fault.alerts), f"{fault.alerts} to be silent",
                 CLEARS_SECONDS)
        self._note(fault)
        fault.heal = break_it()
        return fault

    def wait_fired(self, fault, seconds=FIRES_SECONDS):
        """As long as that; the table says what did not fire."""
        end = time.monotonic() + seconds
        left = set(fault.alerts)
        while (left := left - self.prometheus.alerts(fault.job)) and time.monotonic() < end:
            time.sleep(0.2)

    def heal(self, fault):
        if fault.heal:
            fault.heal()
        fault.healed_at = time.time()

    def provoke(self, fault, break_it):
        self.begin(fault, break_it)
        self.wait_fired(fault)
        self.heal(fault)

    def wait_cleared(self):
        """All that is healed."""
        healed = {alert for fault in self.faults if fault.healed_at for alert in fault.alerts}
        end = time.monotonic() + CLEARS_SECONDS
        while healed & self.prometheus.alerts() and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(3)  # so that what Prometheus keeps shows it

    # ---- jobs

    def submit(self, job):
        return self.cluster.submit(json.dumps({"train": {**COMMON, **job}}))

    def trained_on(self, name):
        """Until the job, whose ranks run, has a newer checkpoint."""
        before = []

        def newer():
            job = self.cluster.job(name)
            iteration = int(job.get("checkpoint", {}).get("iteration", 0))
            before.append((job["attempt"], iteration))
            known = [done for attempt, done in before if attempt == job["attempt"]]
            return job["state"] == "RUNNING" and iteration > known[0]
        wait_for(newer, f"a newer checkpoint of {name}", JOB_SECONDS)

    def metric(self, series):
        """As the coordinator exposes it; None if it does not."""
        with urllib.request.urlopen(f"http://{self.cluster.metrics}/metrics", timeout=30) as response:
            for line in response.read().decode().splitlines():
                if line.startswith(series + " "):
                    return float(line.rsplit(" ", 1)[1])
        return None

    # ---- what happens, in this order

    def age(self):
        """A certificate that is nearly over, then a coordinator that is killed and started again."""
        wait_for(self._scraped, "the first scrape")  # some seconds after its start, and until then an alert fires
        self.start = time.time()
        self.wait_fired(self.old)
        self.provoke(Fault(("HamCoordinatorDown",), "SIGKILL of the coordinator", healed_by="started again"),
                     self._kill_old)
        self.old.healed_at = time.time()

    def _scraped(self):
        return (self.prometheus.ready() and self.prometheus.instant('up{job="ham"} == 1', time.time())
                and "HamCoordinatorDown" not in self.prometheus.alerts())

    def _kill_old(self):
        self._end_coordinator()

        def start_now():
            for name in shifted_clock(0):
                del self.cluster.environment[name]
            self.cluster.start_coordinator()
        return start_now

    def _end_coordinator(self):
        self.cluster.coordinator.kill()
        self.cluster.coordinator.wait()

    def begin_work(self):
        for name in ("worker-0", "worker-1"):
            self._start_worker(name)
        self.ham = self.submit(HAM)  # which takes a slot of each
        self.trained_on(self.ham)
        gpus = self.folder / "gpus"
        gpus.mkdir()
        self._start_worker("worker-gpu", slots=2, **scripted_gpus(gpus))
        self.provoke(Fault(("HamSlotUnusable",), "memory of a GPU taken by somebody else", healed_by="given back"),
                     lambda: self._take_gpu(gpus / "busy"))
        stuck = Fault(("HamQueueStuck",), "a job of 64 ranks, for which there are no slots", healed_by="hamctl cancel")

        def submit():
            self.stuck_job = self.submit(FITS_NOWHERE)
            return lambda: self.cluster.hamctl("cancel", self.stuck_job)
        self.stuck = self.begin(stuck, submit)
        self.overfitting = self._begin_job("HamRobustOverfitting", "many epochs on 256 images", OVERFITTING)
        self.collapsed = self._begin_job("HamWorstClassCollapsed", "four epochs on 512 images", COLLAPSED)

    def _begin_job(self, alert, words, job):
        fault = Fault((alert,), words, job=self.submit(job))
        self._note(fault)
        return fault

    def _start_worker(self, name, **how):
        self.workers[name] = how
        self.cluster.start_worker(name, **how)
        wait_for(lambda: self.metric(f'ham_worker_connected{{worker="{name}"}}') == 1, f"{name} to connect")

    @staticmethod
    def _take_gpu(mark):
        mark.touch()
        return mark.unlink

    def _host_of(self, job):
        """Of a rank of its newest attempt."""
        attempt = self.cluster.job(job)["attempt"]
        work = f"work/{job.rsplit('/', 1)[1]}/{attempt}"
        return next(name for name in sorted(self.workers) if (self.folder / name / work).exists())

    def break_workers(self):
        self.trained_on(self.ham)
        self.provoke(Fault(("HamJobHang",), "SIGSTOP of a rank", healed_by="itself, some time later"), self._stop_rank)
        self.trained_on(self.ham)
        self.provoke(Fault(("HamLiveWorkerGivenUp",), "SIGSTOP of an agent and its ranks, until a rank is given up",
                           beside=("HamWorkerLost",), healed_by="itself, some time later"), self._pause_worker)
        self.trained_on(self.ham)
        self.provoke(Fault(("HamWorkerLost",), "SIGKILL of an agent", beside=("HamLiveWorkerGivenUp",),
                           healed_by="started again"), self._kill_worker)
        self.trained_on(self.ham)
        agents = [worker.pid for worker in self.cluster.workers.values()]
        self.provoke(Fault(("HamLeasesFrozen",), "SIGSTOP of all three agents", beside=("HamWorkerLost",),
                           healed_by="SIGCONT"), lambda: stop(agents))

    def _stop_rank(self):
        stop(ranks(self.cluster, [self._host_of(self.ham)])[:1])

    def _pause_worker(self):
        host, series = self._host_of(self.ham), 'ham_job_events_total{reason="WORKER_LOST"}'
        before = self.metric(series)
        go_on = stop([self.cluster.workers[host].pid, *ranks(self.cluster, [host])])
        wait_for(lambda: self.metric(series) > before, "a rank to be given up")
        go_on()

    def _kill_worker(self):
        host = self._host_of(self.ham)
        self.cluster.workers[host].kill()
        self.cluster.workers[host].wait()
        return lambda: self._start_worker(host, **self.workers[host])

    def fill_disk(self):
        if "HamStoreFailed" in self.missing:
            return
        self.trained_on(self.ham)
        self.provoke(Fault(("HamStoreFailed", "HamStateDiskFull"), "no room on the disk of the state directory",
                           healed_by="room is made"), lambda: fill(self.folder / "state"))

    def wait_for_jobs(self):
        """Until the board of each kind of job has all it shows, and alerts fire."""
        for fault in (self.overfitting, self.collapsed):
            self.wait_fired(fault, JOB_SECONDS)
        self.cluster.hamctl("cancel", self.overfitting.job)
        evaluated = dict(EVALUATION, job=self.collapsed.job)
        self.evaluation = self.cluster.submit(json.dumps({"evaluate": evaluated}))
        left = f'ham_job_evaluation_seconds_left{{job="{self.evaluation}"}}'
        wait_for(lambda: self.metric(left) is not None, "the time that an evaluation has left", JOB_SECONDS)
        self.wait_fired(self.stuck, JOB_SECONDS)
        time.sleep(10)  # so that all lines have some points

    def fill_quota(self):
        self.heal(self.stuck)
        for job in (self.evaluation, self.ham):
            self.cluster.hamctl("cancel", job)
        self.provoke(Fault(("HamArtifactQuotaNear",), "a job that keeps all its checkpoints, under a small quota",
                           healed_by="started again with a larger one"), self._keep_all)

    def _keep_all(self):
        held = int(self.metric("ham_artifact_bytes"))
        self._start_with_quota(held + LEFT_OF_QUOTA)
        job = self.submit(KEEPS_ALL)

        def enlarge():
            self.cluster.hamctl("cancel", job)
            self._start_with_quota(2 * held)
        return enlarge

    def _start_with_quota(self, quota):
        self.cluster.options = [*QUICK, "--artifact-quota", quota]
        self._end_coordinator()
        self.cluster.start_coordinator()
