"""ham-trainer-cuda on a host without a GPU: all that ham-trainer does, and one sentence where a job asks for one."""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402

CPU, CUDA = os.environ["HAM_TRAINER"], os.environ["HAM_TRAINER_CUDA"]
SPEC = {
    "data": {"name": "fashion-mnist", "train_rows": 256, "test_rows": 64, "validation_share": 0}, "epochs": 2,
    "batch_size": 64, "method": {"mining_start_epoch": 2}, "attack": {"steps": 3},
    "evaluation": {"every_epochs": 0, "suites": [{"name": "quick", "attacks": [{"steps": 1, "step_size": 0.1}]}]},
}


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


class CudaProgramTest(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def spec(self, device):
        done = run(os.environ["HAM_CTL"], "submit", "--dry-run", "-", "--set", f"train.resources.device={device}", "-o",
                   "json", input=json.dumps({"train": SPEC}))
        self.assertEqual(done.returncode, 0, done.stderr)
        path = f"{self.folder}/{device}.json"
        pathlib.Path(path).write_text(done.stdout)
        return path

    def train(self, program, device):
        work = f"{self.folder}/{pathlib.Path(program).name}"
        return work, run(program, "--spec", self.spec(device), "--data-cache", self.folder, "--work-dir", work, "--json")

    def test_says_the_same_of_itself(self):
        for arguments in (["--version"], ["version", "--json"], ["models", "--json"], ["data", "list"]):
            expected, found = run(CPU, *arguments), run(CUDA, *arguments)
            self.assertEqual((found.returncode, found.stdout), (0, expected.stdout), found.stderr)

    def test_trains_on_the_cpu_to_the_same_weights(self):
        weights = []
        for program in (CPU, CUDA):
            work, done = self.train(program, "cpu")
            self.assertEqual(done.returncode, 0, done.stderr)
            last = max(pathlib.Path(work).rglob("model.safetensors"))
            weights.append(hashlib.sha256(last.read_bytes()).hexdigest())
        self.assertEqual(*weights)

    @unittest.skipIf(os.path.exists("/proc/driver/nvidia"), "this host has an NVIDIA driver; tests/gpu/run.sh is for it")
    def test_a_job_for_a_gpu_ends_with_one_sentence(self):
        _, done = self.train(CUDA, "cuda")
        expected = ("ham-trainer: there is no NVIDIA driver on this host: install one of version 580 or newer, or set "
                    "train.resources.device to cpu\n")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (1, "", expected))
        bench = run(CUDA, "bench", "--spec", self.spec("cuda"), "--data-cache", self.folder)
        self.assertEqual((bench.returncode, bench.stdout, bench.stderr), (1, "", expected))


if __name__ == "__main__":
    xml_runner.main()
