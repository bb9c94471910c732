"""GPUs through the control plane, as a scripted library in the place of NVML has them."""
import json
import pathlib
import sys
import tempfile
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import Cluster, spec, wait_for  # noqa: E402
from scripted_gpus import scripted_gpus  # noqa: E402


class Gpus(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ham-gpus-")
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.cluster = Cluster(workers=0)
        self.addCleanup(self.cluster.__exit__, None)

    def start_worker(self, *programs):
        worker = self.cluster.start_worker("gpu-host", **scripted_gpus(self.path, programs))
        wait_for(lambda: self.slots() or worker.poll() is not None, "the worker")
        self.assertIsNone(worker.poll(), (self.cluster.path / "gpu-host.log").read_text())

    def slots(self):
        workers = json.loads(self.cluster.hamctl("workers", "-o", "json").stdout).get("workers", [])
        return workers[0]["slots"] if workers else []

    def series(self):
        text = urllib.request.urlopen(f"http://{self.cluster.metrics}/metrics", timeout=10).read().decode()
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("ham_gpu_"))

    def test_are_shown_and_measured_until_their_worker_goes(self):
        self.start_worker("ham-trainer", "ham-trainer-cuda")
        slots = self.slots()
        self.assertEqual([slot["device"] for slot in slots], ["cpu", "cuda", "cuda", "cuda"])
        self.assertEqual(slots[1]["gpu"], {"pci_bus_id": "00000000:00:00.0", "compute_capability": "9.0",
                                           "driver_version": "580.1", "nvlink_slots": [2]})
        power = 'ham_gpu_power_watts{worker="gpu-host",gpu="GPU-0"}'
        wait_for(lambda: self.series().get(power) == "400.5", power)
        self.cluster.workers["gpu-host"].terminate()
        wait_for(lambda: not self.series(), "the series to go")

    def test_take_jobs_that_ask_for_them(self):
        self.start_worker("ham-trainer", "ham-trainer-cuda")
        job = self.cluster.submit(spec(resources={"world_size": 3, "device": "cuda"}, retry={"max_attempts": 1}))
        ended = self.cluster.wait_state(job, "FAILED", "SUCCEEDED")
        self.assertEqual(ended["failure_class"], "INFRASTRUCTURE")
        self.assertIn("the worker needs ham-trainer-cuda", ended["state_message"])

    def test_are_left_to_who_uses_them(self):
        self.start_worker("ham-trainer", "ham-trainer-cuda")
        busy = self.path / "busy"
        busy.touch()
        wait_for(lambda: "problem" in self.slots()[3], "the problem of the last GPU")
        self.assertEqual(self.slots()[3]["problem"]["kind"], "BUSY_FOREIGN")
        self.assertIn("slot 3 of gpu-host gets no ranks: BUSY_FOREIGN: Scripted GPU (GPU-2): somebody else uses 20",
                      self.cluster.hamctl("workers").stdout)
        job = self.cluster.submit(spec(resources={"world_size": 3, "device": "cuda"}, retry={"max_attempts": 1}))
        self.assertIn("Slots that cannot be used: 3 of gpu-host (BUSY_FOREIGN)", self.cluster.job(job)["state_message"])
        busy.unlink()
        self.cluster.wait_state(job, "FAILED")  # it was started

    def test_are_not_offered_without_their_trainer(self):
        self.start_worker("ham-trainer")
        self.assertEqual([slot["device"] for slot in self.slots()], ["cpu"])
        self.assertIn("3 GPUs are not offered", (self.cluster.path / "gpu-host.log").read_text())
        job = self.cluster.submit(spec(resources={"device": "cuda"}))
        wait_for(lambda: self.cluster.job(job)["state_reason"] == "NO_WORKER_FITS", "NO_WORKER_FITS")


if __name__ == "__main__":
    xml_runner.main()
