"""Evaluations over workers: the same outcomes as on one machine, whoever is killed meanwhile, and a signed record."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import BIN, Cluster, spec, wait_for  # noqa: E402

TRAIN = {"method": {"name": "pgd-at"}, "world_size": 1, "evaluation": {"every_epochs": 0}}
ROWS = 300
STEPS = {"apgd": {"steps": 60}, "apgd-t": {"steps": 60, "targets": 4}, "fab-t": {"steps": 30, "targets": 4},
         "square": {"steps": 2000}}
STAGES = ["clean", *STEPS]
EPSILON = 0.03
# As `ham-trainer evaluate --attacks` has them, and as a suite.
ATTACKS = ",".join(":".join([name, *(f"{key}={value}" for key, value in options.items())])
                   for name, options in STEPS.items())
SUITE = {"epsilon": EPSILON, "attacks": [{"name": name} | options for name, options in STEPS.items()]}


def evaluation(world_size=2, **fields):
    return json.dumps({"evaluate": {"data": {"name": "fashion-mnist", "rows": ROWS}, "suite": SUITE,
                                    "resources": {"world_size": world_size}} | fields})


def run(*command, cwd=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate_alone(weights, record):
    run(BIN / "ham-trainer", "evaluate", "--weights", weights, "--data", "fashion-mnist", "--rows", ROWS, "--epsilon",
        EPSILON, "--attacks", ATTACKS, "--record", record)
    return json.loads(record.read_text())["record"]


class Evaluations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        (cls.path / "job.yaml").write_text(spec(**TRAIN))
        (cls.path / "job.json").write_text(run(BIN / "hamctl", "submit", "--dry-run", cls.path / "job.yaml", "-o", "json"))
        run(BIN / "ham-trainer", "--spec", "job.json", "--work-dir", "run", cwd=cls.path)
        checkpoint = next(path for path in sorted((cls.path / "run" / "checkpoints").iterdir()) if path.is_dir())
        cls.weights = cls.path / "net.safetensors"
        run(BIN / "ham-trainer", "export", checkpoint, cls.weights)
        cls.alone = evaluate_alone(cls.weights, cls.path / "alone.json")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def submit(self, cluster, **fields):
        return cluster.submit(evaluation(**fields), "--weights", self.weights)

    def get_record(self, cluster, name):
        path = cluster.path / "record.json"
        shown = cluster.hamctl("eval", "get", name, "--record", path).stdout
        self.assertIn("signed by", shown)
        return json.loads(path.read_text()), path

    def assert_as_alone(self, cluster, name):
        job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=300)
        self.assertEqual(job["state"], "SUCCEEDED", job)
        signed, path = self.get_record(cluster, name)
        record = signed["record"]
        for part in "samples", "figures", "data", "threat", "device", "seed", "warnings":
            self.assertEqual(record[part], self.alone[part], part)
        for attack, alone in zip(record["attacks"], self.alone["attacks"], strict=True):
            for field in "name", "steps", "targets", "rows_tried", "rows_broken":
                self.assertEqual(attack[field], alone[field], field)
        return path

    def wait_for_stage(self, cluster, name, stage):
        """Until outcomes of this stage, or of a later one, are known: they are shown about once a second."""
        later = STAGES[STAGES.index(stage):]

        def reached():
            text = urllib.request.urlopen(f"http://{cluster.metrics}/metrics", timeout=10).read().decode()
            found = re.search(rf'ham_job_evaluation_rows_left{{job="{name}",stage="(\S+)"}}', text)
            return found and found[1] in later
        wait_for(reached, f"stage {stage}")

    def test_two_workers_find_what_one_machine_finds(self):
        with Cluster() as cluster:
            name = self.submit(cluster)
            watched = cluster.hamctl("watch", name, timeout=300).stdout
            self.assertIn("square", watched)
            self.assertIn("robust <=", watched)
            path = self.assert_as_alone(cluster, name)
            self.assertIn("worst class", cluster.hamctl("eval", "show", path).stdout)
            key = json.loads(cluster.hamctl("version", "-o", "json").stdout)["coordinator"]["signing_key"]
            verified = cluster.hamctl("eval", "verify", path, "--weights", self.weights, "--signed-by", key, "--shard",
                                      "1/4")
            self.assertIn("all outcomes are equal", verified.stdout)
            evaluations = [r["metric"]["evaluation"] for r in cluster.records(name) if "evaluation" in r.get("metric", {})]
            robust = [point["suites"][0]["robust_accuracy"] for point in evaluations]
            self.assertEqual(robust, sorted(robust, reverse=True))
            self.assertEqual(evaluations[-1]["final"], True)
            self.assertNotIn("progress", evaluations[-1])
            # Its weights are there now, and all can be had again.
            again = cluster.submit(evaluation(weights=cluster.job(name)["spec"]["evaluate"]["weights"]))
            cluster.hamctl("cancel", again)
            cluster.wait_state(again, "CANCELLED")
            error = cluster.hamctl("eval", "get", again, check=None)
            self.assertNotEqual(error.returncode, 0)
            self.assertIn("CANCELLED", error.stderr)

    def test_nothing_is_lost_whoever_is_killed(self):
        with Cluster(options=["--lease", "3s"]) as cluster:
            name = self.submit(cluster)
            self.wait_for_stage(cluster, name, "clean")
            os.kill(cluster.trainers("worker-0")[0], signal.SIGKILL)
            self.wait_for_stage(cluster, name, "apgd")
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            cluster.start_coordinator()
            self.wait_for_stage(cluster, name, "fab-t")
            cluster.workers["worker-1"].kill()
            cluster.workers["worker-1"].wait()
            cluster.start_worker("worker-1")
            self.assert_as_alone(cluster, name)
            self.assertEqual(cluster.job(name)["attempt"], 1)

    def test_all_ranks_killed_at_once_it_goes_on_where_it_was(self):
        with Cluster() as cluster:
            name = self.submit(cluster)
            self.wait_for_stage(cluster, name, "fab-t")
            for worker in cluster.workers:
                for pid in cluster.trainers(worker):
                    os.kill(pid, signal.SIGKILL)
            self.assert_as_alone(cluster, name)
            stages = [r["metric"]["evaluation"]["progress"]["stage"] for r in cluster.records(name)
                      if "progress" in r.get("metric", {}).get("evaluation", {})]
            self.assertEqual(stages, sorted(stages, key=STAGES.index), "no stage came twice")

    def test_workers_join_and_leave(self):
        with Cluster(workers=1) as cluster:
            name = self.submit(cluster)
            self.wait_for_stage(cluster, name, "clean")
            cluster.start_worker("late")
            wait_for(lambda: "RANKS_JOINED" in [r["event"]["reason"] for r in cluster.records(name) if "event" in r],
                     "a rank on the worker that came late")
            cluster.workers["worker-0"].terminate()
            cluster.workers["worker-0"].wait()
            self.assert_as_alone(cluster, name)
            reasons = [r["event"]["reason"] for r in cluster.records(name) if "event" in r]
            self.assertIn("RANKS_JOINED", reasons)

    def test_evaluates_a_training_job(self):
        with Cluster() as cluster:
            trained = cluster.submit(spec(**TRAIN))
            cluster.wait_state(trained, "SUCCEEDED")
            name = cluster.submit(evaluation(job=trained))
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=300)
            self.assertEqual(job["state"], "SUCCEEDED", job)
            record = self.get_record(cluster, name)[0]["record"]
            digest = job["spec"]["evaluate"]["weights"]
            kept = cluster.path / "state" / "artifacts" / digest[:2] / digest
            alone = evaluate_alone(kept, cluster.path / "alone.json")
            self.assertEqual(record["model"]["weights_digest"], alone["model"]["weights_digest"])
            self.assertEqual(record["samples"], alone["samples"])

    def test_what_cannot_be_evaluated_fails_with_one_sentence(self):
        with Cluster() as cluster:
            wrong = cluster.path / "wrong.safetensors"
            wrong.write_bytes(b"not a tensor in sight")
            for weights, fields, what in (
                    (wrong, {}, "safetensors"),
                    (self.weights, {"model": {"name": "preact-resnet-18"}}, "no tensor"),
                    (self.weights, {"data": {"name": "fashion-mnist", "rows": 20000}}, "10000")):
                name = cluster.submit(evaluation(**fields), "--weights", weights)
                job = cluster.wait_state(name, "SUCCEEDED", "FAILED")
                self.assertEqual((job["state"], job["failure_class"]), ("FAILED", "USER"), job)
                self.assertIn(what, job["state_message"])
            absent = cluster.hamctl("submit", cluster.write_spec(evaluation(weights="0" * 64)), check=None)
            self.assertNotEqual(absent.returncode, 0)
            self.assertIn("0" * 64, absent.stderr)


if __name__ == "__main__":
    xml_runner.main()
