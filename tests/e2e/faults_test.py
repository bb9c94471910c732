"""Processes killed and frozen in the middle of a job: the job still succeeds, nothing is lost or left behind."""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import BIN, LONG, Cluster, alive, spec, wait_for  # noqa: E402

ENOUGH = 30  # epochs: long enough to be hit in the middle


def checkpointed(cluster, name, epoch=1):
    return wait_for(lambda: int(cluster.job(name).get("checkpoint", {}).get("epoch", 0)) >= epoch, "a checkpoint")


class Faults(unittest.TestCase):
    def assert_complete(self, cluster, name, epochs):
        """Every epoch was trained and evaluated, and sequence numbers have no hole."""
        records = cluster.records(name)
        self.assertEqual([int(r["sequence"]) for r in records], list(range(1, len(records) + 1)))
        seen = {r["metric"]["epoch"] for r in records if r.get("metric", {}).get("train", {}).get("end_of_epoch")}
        self.assertEqual(seen, set(range(1, epochs + 1)))
        finals = [r for r in records if r.get("metric", {}).get("evaluation", {}).get("final")]
        self.assertEqual(len(finals), 1)

    def test_trainer_killed(self):
        with Cluster() as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            for pid in cluster.trainers("worker-1"):
                os.kill(pid, signal.SIGKILL)
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=180)
            self.assertEqual(job["state"], "SUCCEEDED", job)
            self.assertEqual(job["attempt"], 2)
            self.assert_complete(cluster, name, ENOUGH)

    def test_coordinator_killed_and_restarted(self):
        with Cluster() as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            trainers = cluster.trainers("worker-0") + cluster.trainers("worker-1")
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            self.assertTrue(all(map(alive, trainers)))
            cluster.start_coordinator()
            self.assertEqual(cluster.job(name)["name"], name)
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=180)
            self.assertEqual((job["state"], job["attempt"]), ("SUCCEEDED", 1), job)
            self.assert_complete(cluster, name, ENOUGH)

    def test_worker_killed_and_restarted(self):
        with Cluster(options=["--lease", "3s"]) as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            trainers = cluster.trainers("worker-1")
            self.assertTrue(trainers)
            cluster.workers["worker-1"].kill()
            cluster.workers["worker-1"].wait()
            wait_for(lambda: not any(map(alive, trainers)), "the end of the killed agent's trainers", 20)
            cluster.start_worker("worker-1")
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=180)
            self.assertEqual(job["state"], "SUCCEEDED", job)
            self.assertGreaterEqual(job["attempt"], 2)
            self.assert_complete(cluster, name, ENOUGH)

    def events(self, cluster, name, reason):
        return [r["event"] for r in cluster.records(name) if r.get("event", {}).get("reason") == reason]

    def test_a_rank_that_hangs_is_named_and_replaced(self):
        with Cluster(options=["--hang-bound", "10s"]) as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            (victim,) = cluster.trainers("worker-1")
            os.kill(victim, signal.SIGSTOP)
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=180)
            self.assertEqual((job["state"], job["failure_class"]), ("SUCCEEDED", "HANG"), job)
            message = self.events(cluster, name, "HANG")[0]["message"]
            self.assertRegex(message, "on worker-1: no tick for .*; its process is stopped by a signal")
            self.assertNotIn("on worker-0:", message)
            self.assertFalse(alive(victim))
            self.assert_complete(cluster, name, ENOUGH)

    def test_a_killed_agent_is_found_before_its_lease_is_over(self):
        with Cluster(workers=3, options=["--lease", "1h", "--heartbeat", "1s"]) as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            busy = [w for w in cluster.workers if cluster.trainers(w)]
            cluster.workers[busy[1]].kill()
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=180)
            self.assertEqual((job["state"], job["attempt"], job["failure_class"]), ("SUCCEEDED", 2, "WORKER_LOST"), job)
            (event,) = self.events(cluster, name, "WORKER_LOST")
            self.assertIn(f"Worker {busy[1]} is gone", event["message"])

    def test_worker_frozen_beyond_its_lease(self):
        with Cluster(workers=3, options=["--lease", "3s"]) as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            busy = [w for w in cluster.workers if cluster.trainers(w)]
            frozen = cluster.trainers(busy[0])
            cluster.workers[busy[0]].send_signal(signal.SIGSTOP)
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=240)
            self.assertEqual(job["state"], "SUCCEEDED", job)
            for pid in frozen:
                if alive(pid):
                    os.kill(pid, signal.SIGCONT)
            cluster.workers[busy[0]].send_signal(signal.SIGCONT)
            wait_for(lambda: not any(map(alive, frozen)), "the end of the replaced ranks")

    def test_worker_told_to_stop_leaves_no_trainer(self):
        with Cluster() as cluster:
            name = cluster.submit(spec(**LONG))
            cluster.wait_state(name, "RUNNING")
            trainers = cluster.trainers("worker-0")
            self.assertTrue(trainers)
            cluster.workers["worker-0"].terminate()
            self.assertEqual(cluster.workers["worker-0"].wait(timeout=40), 0)
            self.assertFalse(any(map(alive, trainers)))
            cluster.hamctl("cancel", name)

    def test_restored_from_a_backup_made_while_it_ran(self):
        with Cluster() as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name)
            state, backup = cluster.path / "state", cluster.path / "backup"
            self.assertIn("1 job,", cluster.coordinator_command("backup", "--state-dir", state, backup))
            trainers = cluster.trainers("worker-0") + cluster.trainers("worker-1")
            later = cluster.submit(spec(**LONG))
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            state.rename(cluster.path / "before")
            self.assertIn(name, cluster.coordinator_command("restore", "--from", backup, "--state-dir", state))
            cluster.start_coordinator()
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=240)
            self.assertEqual((job["state"], job["attempt"]), ("SUCCEEDED", 1000002), job)
            self.assertFalse(any(map(alive, trainers)))
            self.assertNotEqual(cluster.hamctl("get", later, check=None).returncode, 0)  # it came after the backup
            records = cluster.records(name)
            self.assertEqual([int(r["sequence"]) for r in records], list(range(1, len(records) + 1)))
            self.assertIn("RESTORED", [r["event"]["reason"] for r in records if "event" in r])

    def test_damaged_checkpoint_gives_way_to_the_one_before(self):
        with Cluster() as cluster:
            name = cluster.submit(spec(epochs=ENOUGH))
            checkpointed(cluster, name, 3)
            trainers = cluster.trainers("worker-0") + cluster.trainers("worker-1")
            for pid in trainers:
                os.kill(pid, signal.SIGSTOP)
            seen = []

            def settled():  # what was on its way is committed
                seen.append(cluster.job(name)["checkpoint"])
                return len(seen) > 20 and seen[-1] == seen[-20] and seen[-1]
            newest = wait_for(settled, "the last checkpoint")
            artifacts = cluster.path / "state" / "artifacts"
            manifest = json.loads((artifacts / newest["manifest_digest"][:2] / newest["manifest_digest"]).read_text())
            weights = next(f["sha256"] for f in manifest["files"] if f["name"] == "model.safetensors")
            with open(artifacts / weights[:2] / weights, "r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last[0] ^ 1]))
            for pid in trainers:
                os.kill(pid, signal.SIGKILL)
            job = cluster.wait_state(name, "SUCCEEDED", "FAILED", seconds=240)
            self.assertEqual(job["state"], "SUCCEEDED", job)
            events = [r["event"] for r in cluster.records(name) if "event" in r]
            damaged = [e for e in events if e["reason"] == "CHECKPOINT_DAMAGED"]
            self.assertEqual(len(damaged), 1, events)
            self.assertIn(f"iteration {newest['iteration']} is damaged", damaged[0]["message"])
            self.assertIn("starts from that of iteration", damaged[0]["message"])
            self.assert_complete(cluster, name, ENOUGH)

    def test_an_upload_goes_on_after_its_coordinator_was_killed(self):
        with Cluster(workers=0) as cluster:
            weights = cluster.path / "weights"
            weights.write_bytes(os.urandom(192 << 20))
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            job = cluster.write_spec(json.dumps({"evaluate": {"data": {"name": "fashion-mnist"}}}))
            artifacts = cluster.path / "state" / "artifacts"
            part = artifacts / "unfinished" / digest
            submit = subprocess.Popen([BIN / "hamctl", "submit", job, "--weights", weights, "--timeout", "120s"],
                                      env=cluster.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                wait_for(lambda: part.exists() and part.stat().st_size > 4 << 20, "a part of the upload")
                cluster.coordinator.kill()
                cluster.coordinator.wait()
                held = part.stat().st_size
                self.assertLess(held, weights.stat().st_size)
                cluster.start_coordinator()
                self.assertGreaterEqual(part.stat().st_size, held)
                _, errors = submit.communicate(timeout=180)
            finally:
                submit.kill()
            self.assertEqual(submit.returncode, 0, errors)
            whole = artifacts / digest[:2] / digest
            self.assertEqual(hashlib.sha256(whole.read_bytes()).hexdigest(), digest)

    def test_coordinator_restart_keeps_the_queue(self):
        with Cluster(workers=0) as cluster:
            names = [cluster.submit(spec(world_size=1, epochs=1, seed=s)) for s in range(3)]
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            cluster.start_coordinator()
            self.assertEqual([cluster.job(n)["state"] for n in names], ["QUEUED"] * 3)
            cluster.start_worker("worker-0")
            ended = [cluster.wait_state(n, "SUCCEEDED", seconds=120)["start_time"] for n in names]
            self.assertEqual(ended, sorted(ended))


if __name__ == "__main__":
    xml_runner.main()
