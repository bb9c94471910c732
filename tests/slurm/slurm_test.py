"""deploy/slurm/worker.sbatch in a real Slurm: its workers take jobs, and allocations end in all the ways they do."""
import json
import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import BIN, Cluster, spec  # noqa: E402
from slurm_cluster import Slurm, enter_namespace, wait_for, why_unavailable  # noqa: E402

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "slurm" / "worker.sbatch"
ENOUGH = 30  # epochs: long enough to be hit in the middle
LONG = {"epochs": 10000}  # runs until something ends it
ONE_FAILURE_ENDS_IT = {"max_attempts": 1}


class Workers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if reason := why_unavailable():
            raise unittest.SkipTest(reason)
        cls.slurm = cls.enterClassContext(Slurm())

    def setUp(self):
        self.ham = self.enterContext(Cluster(workers=0))
        self.states = self.ham.path / "states"
        self.states.mkdir()
        self.slurm_jobs = []
        self.addCleanup(self.end_slurm_jobs)

    def end_slurm_jobs(self):
        result = self._outcome.result
        if any(test is self for test, _ in [*result.failures, *result.errors]):
            for log in [*self.ham.path.glob("slurm-*.log"), self.slurm.path / "slurmctld.log"]:
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
        for job in self.slurm_jobs:
            self.slurm.run("scancel", job, check=False)
        for node in self.slurm.nodes:
            wait_for(lambda: not self.slurm.processes_on(node), f"the jobs of {node} to end")

    def sbatch(self, *arguments, environment=()):
        """The id of the new Slurm job."""
        environment = {"HAM_BIN": str(BIN), "HAM_STATE": str(self.states), **dict(environment)}
        job = self.slurm.run("sbatch", "--parsable", f"--output={self.ham.path}/slurm-%A.log", *arguments,
                             environment=environment).strip()
        self.slurm_jobs.append(job)
        return job

    def start_worker(self, *options, join=None, arguments=(), environment=()):
        join = join or self.ham.path / "state" / "worker-join"
        return self.sbatch(*options, SCRIPT, "--join", join, *arguments, environment=environment)

    def output(self, job):
        log = self.ham.path / f"slurm-{job}.log"
        return log.read_text() if log.exists() else ""

    def wait_slurm(self, job, **wanted):
        def reached():
            shown = self.slurm.job(job)
            return all(shown.get(field) == value for field, value in wanted.items()) and shown
        return wait_for(reached, f"Slurm job {job} to be {wanted}")

    def workers(self):
        """Those that are there, by name."""
        listed = json.loads(self.ham.hamctl("workers", "-o", "json").stdout).get("workers", [])
        return {worker["name"].removeprefix("workers/"): worker for worker in listed
                if worker["state"] == "CONNECTED"}

    def wait_checkpoint(self, job, attempt=1):
        def newest():
            checkpoint = self.ham.job(job).get("checkpoint", {})
            return checkpoint.get("attempt") == attempt and checkpoint
        return wait_for(newest, f"a checkpoint of attempt {attempt} of {job}")

    def assert_goes_on(self, job):
        """In a second attempt, from a checkpoint of the first, which counts as no failure."""
        self.wait_checkpoint(job, attempt=2)
        shown = self.ham.job(job)
        self.assertEqual((shown["state"], shown["failure_class"]), ("RUNNING", "PREEMPTED"), shown)
        self.ham.hamctl("cancel", job)
        self.ham.wait_state(job, "CANCELLED", seconds=240)
        self.assertGreater(self.first_epoch(job, attempt=2), 1)

    def first_epoch(self, job, attempt):
        return min(r["metric"]["epoch"] for r in self.ham.records(job)
                   if r.get("metric", {}).get("train") and r["attempt"] == attempt)

    def test_an_array_of_workers_trains_and_leaves_nothing(self):
        job = self.ham.submit(spec(epochs=1))
        array = self.start_worker("--array=1-2", "--exclude=n3,n4")
        self.assertEqual(self.ham.wait_state(job, "SUCCEEDED", "FAILED", seconds=240)["state"], "SUCCEEDED")
        workers = self.workers()
        self.assertEqual(sorted(name.split("-")[0] for name in workers), ["n1", "n2"])
        self.assertEqual([len(worker["slots"]) for worker in workers.values()], [1, 1])
        self.slurm.run("scancel", array)
        wait_for(lambda: not self.slurm.processes_on("n1") + self.slurm.processes_on("n2"), "the workers to end")
        self.assertEqual(list(self.states.iterdir()), [])
        self.assertEqual(self.output(array).count("info stopping"), 2, self.output(array))

    def test_one_step_starts_a_worker_on_each_node_of_an_allocation(self):
        job = self.ham.submit(spec(epochs=1))
        join = self.ham.path / "state" / "worker-join"
        self.sbatch("--nodes=2", "--exclude=n3,n4", "--wrap",
                    f"srun --ntasks-per-node=1 --cpu-bind=none {SCRIPT} --join {join}")
        self.assertEqual(self.ham.wait_state(job, "SUCCEEDED", "FAILED", seconds=240)["state"], "SUCCEEDED")
        self.assertEqual(sorted(name.split("-")[0] for name in self.workers()), ["n1", "n2"])

    def test_before_the_time_limit_a_job_moves_to_the_next_allocation(self):
        job = self.ham.submit(spec(world_size=1, retry=ONE_FAILURE_ENDS_IT, **LONG))
        first = self.start_worker("--nodelist=n1")
        following = self.start_worker("--nodelist=n1")
        self.wait_checkpoint(job)
        self.assertEqual(self.slurm.job(following)["JobState"], "PENDING")
        # One to two minutes from now. Slurm looks twice a minute.
        self.slurm.run("scontrol", "update", f"JobId={first}", f"TimeLimit={self.slurm.seconds_run(first) // 60 + 2}")
        self.wait_slurm(first, JobState="COMPLETED", ExitCode="0:0")  # not TIMEOUT
        self.assert_goes_on(job)
        self.assertEqual(list(self.workers()), [f"n1-{following}"])

    def test_a_preempted_worker_gives_its_rank_to_another_and_comes_back(self):
        job = self.ham.submit(spec(world_size=1, retry=ONE_FAILURE_ENDS_IT, **LONG))
        preempted = self.start_worker("--nodelist=n1")
        self.wait_checkpoint(job)
        other = self.start_worker("--nodelist=n2")
        wait_for(lambda: f"n2-{other}" in self.workers(), "the other worker")
        urgent = self.sbatch("--partition=urgent", "--nodelist=n1", "--wrap", "sleep infinity")
        self.wait_slurm(urgent, JobState="RUNNING")
        self.assertEqual(self.slurm.job(preempted)["JobState"], "PENDING")
        self.assert_goes_on(job)
        self.slurm.run("scancel", urgent)
        self.slurm.run("scontrol", "update", f"JobId={preempted}", "StartTime=now")  # Slurm lets it wait two minutes
        wait_for(lambda: f"n1-{preempted}" in self.workers(), "the worker of the requeued job")

    def test_a_node_that_fails_loses_its_rank_and_the_worker_starts_on_another(self):
        job = self.ham.submit(spec(epochs=ENOUGH))
        self.start_worker("--nodelist=n2")
        lost = self.start_worker("--exclude=n2,n4")
        self.wait_checkpoint(job)
        node = self.slurm.job(lost)["NodeList"]
        self.slurm.crash_node(node)
        self.addCleanup(self.slurm.repair_node, node)
        self.slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")
        self.wait_slurm(lost, JobState="PENDING", Restarts="1")
        self.slurm.run("scontrol", "update", f"JobId={lost}", "StartTime=now")
        other = {"n1": "n3", "n3": "n1"}[node]
        self.wait_slurm(lost, JobState="RUNNING", NodeList=other)
        wait_for(lambda: f"{other}-{lost}" in self.workers(), "the worker on the other node")
        ended = self.ham.wait_state(job, "SUCCEEDED", "FAILED", seconds=240)
        self.assertEqual((ended["state"], ended["attempt"], ended["failure_class"]), ("SUCCEEDED", 2, "WORKER_LOST"),
                         ended)
        self.assertGreater(self.first_epoch(job, attempt=2), 1)

    def test_workers_of_one_node_share_its_gpus_as_slurm_does(self):
        library = self.ham.path / "libnvidia-ml.so.1"
        library.symlink_to(os.environ["HAM_SCRIPTED_NVML"])
        for trainer in ("ham-trainer", "ham-trainer-cuda"):  # it has no CUDA, and trains nothing here
            (self.ham.path / trainer).symlink_to(BIN / "ham-trainer")
        environment = {"LD_LIBRARY_PATH": str(self.ham.path)}
        arguments = ["--trainer", self.ham.path / "ham-trainer"]
        one = self.start_worker("--nodelist=n4", "--gres=gpu:1", arguments=arguments, environment=environment)
        two = self.start_worker("--nodelist=n4", "--gres=gpu:2", arguments=arguments, environment=environment)
        workers = wait_for(lambda: len(self.workers()) == 2 and self.workers(), "both workers")
        gpus = {name: [slot["device_id"] for slot in worker["slots"]] for name, worker in workers.items()}
        self.assertEqual(sorted(map(len, gpus.values())), [1, 2])
        self.assertEqual(len(gpus[f"n4-{one}"]), 1)
        self.assertEqual(sorted(gpus[f"n4-{one}"] + gpus[f"n4-{two}"]), ["GPU-0", "GPU-1", "GPU-2"])

    def assert_fails(self, job, *words):
        self.wait_slurm(job, JobState="FAILED", ExitCode="1:0")
        for word in words:
            self.assertIn(word, self.output(job))

    def test_what_cannot_work_ends_with_its_reason(self):
        reasons = {
            self.sbatch(SCRIPT): "worker.sbatch: --join FILE is missing",
            self.start_worker("--nodes=2"): "this job has 2 nodes, and a worker runs on one: use --nodes=1 --array=1-2",
            self.start_worker(environment={"HAM_BIN": "/nowhere"}): "there is no program /nowhere/ham-worker on",
            self.start_worker(environment={"HAM_STATE": "/nowhere"}): "cannot make /nowhere/ham-worker-n",
            self.start_worker(join="/nowhere/join"): "ham-worker: cannot read /nowhere/join: No such file or directory",
        }
        for job, reason in reasons.items():
            self.assert_fails(job, reason)
        self.assertEqual(list(self.states.iterdir()), [])

    def test_a_secret_that_is_refused_or_no_coordinator_ends_with_words(self):
        join = json.loads((self.ham.path / "state" / "worker-join").read_text())
        wrong = self.ham.path / "wrong-join"
        wrong.write_text(json.dumps({**join, "token": "x" * len(join["token"])}))
        self.assert_fails(self.start_worker(join=wrong), "the coordinator refused the secret of --join",
                          "fetch the file worker-join")
        self.ham.coordinator.terminate()
        self.ham.coordinator.wait(timeout=40)
        self.assert_fails(self.start_worker(arguments=["--give-up-after", "1s"]),
                          f"no coordinator was reached at {join['endpoints'][0]}", "for 1s")
        self.assertEqual(list(self.states.iterdir()), [])


if __name__ == "__main__":
    enter_namespace()
    xml_runner.main()
