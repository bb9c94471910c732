"""The stage `service`: a coordinator and a worker out of the bundle, whose GPU is a slot, do a training and an
evaluation, and find out by themselves that a trainer on the GPU was stopped, and that one was killed."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

WORKER = "gpu-host"
# What NVML measures of any GPU.
GPU_SERIES = {"ham_gpu_memory_bytes", "ham_gpu_memory_used_bytes", "ham_gpu_power_watts", "ham_gpu_temperature_celsius",
              "ham_gpu_utilization_ratio"}


def service(run):
    outcome, part = {}, "first_start"
    try:
        outcome[part] = first_start(run)
        part = "cluster"
        with running_cluster(run) as cluster:
            parts = Parts(run, cluster)
            for part in ("slots", "training", "evaluation", "faults", *([] if run.rehearse else ["foreign"])):
                begin = time.monotonic()
                outcome[part] = getattr(parts, part)()
                outcome[part]["seconds"] = time.monotonic() - begin
    except Exception as error:  # the parts before this one count
        outcome["failed"] = f"{part}: {error or repr(error)}"
    return outcome


def first_start(run):
    """Of the trainer, by itself: so that a slow disk, from which its libraries of 3 GB come, costs the worker no time."""
    begin = time.monotonic()
    program = "ham-trainer" if run.rehearse else "ham-trainer-cuda"
    run.call("service-first-start.log", run.program(program, "version", "--json"), 120)
    return {"seconds": time.monotonic() - begin}


@contextlib.contextmanager
def running_cluster(run):
    """A coordinator and a worker. Their logs and the record stay in OUT/service, their directories go."""
    os.environ["HAM_BIN"] = str(run.programs)
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
    from cluster import Cluster
    folder = run.out / "service"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # Of a trainer at work on a GPU too, once it has done some steps; its first may take ten times as long.
    bound = "10s" if run.rehearse else "20s"
    try:
        with Cluster(workers=0, options=["--hang-bound", bound], data_root=run.data_root, folder=folder,
                     environment=run.environment) as cluster:
            cluster.start_worker(WORKER, options=["--no-gpu"] if run.rehearse else [])
            yield cluster
    finally:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def check(holds, why):
    if not holds:
        raise AssertionError(why)


class Parts:
    """What is done with the cluster, in this order. Each returns what it measured, and raises where it fails."""

    def __init__(self, run, cluster):
        self.run, self.cluster = run, cluster
        self.device = "cpu" if run.rehearse else "cuda"
        self.trained = None  # the job of training()

    def seconds_left(self, limit):
        return round(self.run.seconds_left(limit), 1)

    def slots(self):
        """What the worker offers."""
        from cluster import wait_for
        worker, log = self.cluster.workers[WORKER], self.cluster.path / f"{WORKER}.log"

        def offered():
            workers = json.loads(self.cluster.hamctl("workers", "-o", "json").stdout).get("workers", [])
            check(worker.poll() is None, f"the worker has ended: {log.read_text()[-500:]}")
            return [slot for one in workers for slot in one["slots"]]
        found = wait_for(offered, "the worker", self.seconds_left(90))
        check(any(slot["device"] == self.device for slot in found),
              f"no slot is for device {self.device}, but {found}: {log.read_text()[-500:]}")
        return {"offered": found}

    def training(self):
        """A short one, undisturbed."""
        job, seconds = self.do_job((self.run.specs / "service-short.json").read_text())
        self.trained = job["name"]
        points = [record["metric"] for record in self.cluster.records(job["name"]) if "metric" in record]
        epochs = [point["train"] for point in points if point.get("train", {}).get("end_of_epoch")]
        final = next(point["evaluation"] for point in points if "evaluation" in point)
        return seconds | {"images_per_second": [epoch["images_per_second"] for epoch in epochs],
                          "hard_share": [epoch["hard_share"] for epoch in epochs],
                          "checkpoint_iteration": int(job["checkpoint"]["iteration"]),
                          "evaluated_rows": final["rows"], "clean_accuracy": final["clean_accuracy"]}

    def evaluation(self):
        """Of the training's checkpoint; its signed record."""
        small = self.run.rehearse
        attacks = [{"name": "apgd", "steps": 3 if small else 10}, {"name": "square", "steps": 10 if small else 100}]
        job, seconds = self.do_job(json.dumps({"evaluate": {
            "job": self.trained, "data": {"rows": 16 if small else 256}, "precision": "fp32" if small else "bf16",
            "suite": {"epsilon": 0.031, "attacks": attacks}, "resources": {"device": self.device}}}))
        path = self.cluster.path / "record.json"
        shown = self.cluster.hamctl("eval", "get", job["name"], "--record", path).stdout
        check("signed by" in shown, f"hamctl eval get names no signer: {shown[-500:]}")
        record = json.loads(path.read_text())["record"]
        gpu = self.run.results["device"]
        check(gpu is None or record["device"].startswith(f"{gpu['name']},"), f"it ran on {record['device']}, not the GPU")
        return seconds | {"rows": record["data"]["rows"], "device": record["device"],
                          "clean_accuracy": record["figures"]["clean_accuracy"]["value"],
                          "attacks": [{key: attack[key] for key in ("name", "seconds", "rows_tried", "rows_broken")}
                                      for attack in record["attacks"]]}

    def do_job(self, spec):
        """The job, which must succeed at once, and how long that took."""
        from cluster import unix_seconds
        begin = time.monotonic()
        name = self.cluster.submit(spec)
        job = self.cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=self.seconds_left(120))
        seconds = time.monotonic() - begin
        check(job["state"] == "SUCCEEDED", f"{name} is {job['state']}: {job['state_message']}")
        check(job["attempt"] == 1, f"{name} took {job['attempt']} attempts, and nobody disturbed it")
        return job, {"wall_seconds": seconds,
                     "until_running_seconds": unix_seconds(job["start_time"]) - unix_seconds(job["create_time"])}

    def faults(self):
        """A long training, whose trainer is stopped and, once it trains again, killed."""
        name = self.cluster.submit((self.run.specs / "service-long.json").read_text())
        self.await_checkpoint(name, 1)
        outcome = {} if self.run.rehearse else {"gpu": self.gpu_series()}
        hits = [self.hit(name, number) for number in (signal.SIGSTOP, signal.SIGKILL)]
        self.cluster.hamctl("cancel", name)
        self.cluster.wait_state(name, "CANCELLED", seconds=self.seconds_left(60))
        records = self.cluster.records(name)
        stopped, killed = (what_followed(records, *one) for one in hits)
        check(stopped["reason"] == "HANG" and killed["reason"] == "TRAINER_CRASH",
              f"a rank that was stopped and one that was killed were found as {stopped} and {killed}")
        check(re.search(f"rank 0 on {WORKER}: no tick for .*stopped by a signal", stopped["message"]),
              f"the verdict says not why: {stopped['message']}")
        return outcome | {"stopped": stopped, "killed": killed}

    def foreign(self):
        """Somebody else's process takes memory of the GPU: a job waits until it is gone."""
        from cluster import wait_for

        def problem():
            workers = json.loads(self.cluster.hamctl("workers", "-o", "json").stdout)["workers"]
            return next((slot["problem"] for slot in workers[0]["slots"] if "problem" in slot), None)

        def until(what, holds):
            begin = time.monotonic()
            wait_for(holds, what, self.seconds_left(60))
            return time.monotonic() - begin
        mended = until("the GPU to be free", lambda: problem() is None)
        code = "import torch; x = torch.ones(1 << 29, device='cuda'); print('taken', flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            other.stdout.readline()
            found = until("the foreign process to be found", problem)
            told = problem()
            check(told["kind"] == "BUSY_FOREIGN", f"the slot's problem is {told}")
            name = self.cluster.submit((self.run.specs / "service-short.json").read_text())
            job = self.cluster.job(name)
            check(job["state"] == "QUEUED" and "BUSY_FOREIGN" in job["state_message"],
                  f"{name} is {job['state']}: {job['state_message']}")
            other.stdin.close()
        free = until("the job to start", lambda: self.cluster.job(name)["state"] != "QUEUED")
        job = self.cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=self.seconds_left(120))
        check(job["state"] == "SUCCEEDED", f"{name} is {job['state']}: {job['state_message']}")
        return {"free_seconds": mended, "found_seconds": found, "message": told["message"],
                "names_the_process": str(other.pid) in told["message"],
                "started_seconds": free}

    def await_checkpoint(self, name, attempt):
        """Until this attempt, and no later one, runs and has stored a checkpoint."""
        from cluster import wait_for

        def stored():
            job = self.cluster.job(name)
            check(job["state"] not in ("FAILED", "SUCCEEDED") and job["attempt"] <= attempt,
                  f"{name} is {job['state']} in attempt {job['attempt']}: {job['state_message']}")
            return job["state"] == "RUNNING" and job.get("checkpoint", {}).get("attempt") == attempt
        wait_for(stored, f"attempt {attempt} of {name} to store a checkpoint", self.seconds_left(120))

    def hit(self, name, number):
        """Sends the signal to the trainer; once the next attempt has stored a checkpoint, what what_followed() needs."""
        before = self.cluster.job(name)
        trainers = self.cluster.trainers(WORKER)
        check(len(trainers) == 1, f"the worker has {len(trainers)} processes, not one")
        moment = time.time()
        os.kill(trainers[0], number)
        self.await_checkpoint(name, before["attempt"] + 1)
        return moment, before["attempt"], int(before["checkpoint"]["iteration"])

    def gpu_series(self):
        """What /metrics says of the GPU while a job trains on it: name -> value."""
        from cluster import wait_for
        series = rf'^(ham_gpu_\w+){{worker="{WORKER}",gpu="[^"]+"(?:,reason="(\w+)")?}} (\S+)$'
        last = {}

        def measured():
            text = urllib.request.urlopen(f"http://{self.cluster.metrics}/metrics", timeout=10).read().decode()
            last.update((f"{name} {reason}".strip(), float(value)) for name, reason, value in
                        re.findall(series, text, re.MULTILINE))
            return GPU_SERIES <= set(last) and last["ham_gpu_utilization_ratio"] > 0
        try:
            wait_for(measured, "the series of a GPU at work", self.seconds_left(20))
        except AssertionError as error:
            raise AssertionError(f"{error}; /metrics has {last}") from None
        return last


def what_followed(records, moment, attempt, iteration):
    """After a signal at this moment to the trainer of this attempt, whose last checkpoint is of this iteration: how many
    seconds later it was found, and mended."""
    from cluster import unix_seconds
    later = [(unix_seconds(record["time"]) - moment, record) for record in records]

    def first(of_attempt, what, chosen):
        found = [one for one in later if one[0] > 0 and one[1].get("attempt") == of_attempt and chosen(one[1])]
        check(found, f"the log tells of no {what} of attempt {of_attempt}")
        return found[0]

    def event(of_attempt, field, value):
        return first(of_attempt, value, lambda record: record.get("event", {}).get(field) == value)
    declared, failure = event(attempt, "to_state", "RECOVERING")
    running, _ = event(attempt + 1, "reason", "ALL_RANKS_RUNNING")
    metrics, point = first(attempt + 1, "training", lambda record: "train" in record.get("metric", {}))
    checkpoint, _ = event(attempt + 1, "reason", "CHECKPOINT_COMMITTED")
    # One that begins anew tells of earlier iterations.
    went_on = int(point["metric"]["iteration"])
    check(went_on > iteration,
          f"attempt {attempt + 1} is at iteration {went_on}, and there is a checkpoint of {iteration}")
    return {"reason": failure["event"]["reason"], "message": failure["event"]["message"], "declared_seconds": declared,
            "running_again_seconds": running, "first_metrics_seconds": metrics, "next_checkpoint_seconds": checkpoint,
            "checkpoint_before": iteration, "first_metrics_iteration": went_on}
