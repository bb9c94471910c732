"""The bundle of GPU checks, unpacked elsewhere and run as far as that goes without a GPU."""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
import xml_runner  # noqa: E402

BUILD, LIBTORCH = pathlib.Path(os.environ["HAM_BUILD"]), pathlib.Path(os.environ["HAM_LIBTORCH_CUDA"])
# Where tests/figures keeps PyTorch for Python.
PEERS = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "ham" / "peer-venv"
# What a machine with a GPU has itself.
RUN_TIME = re.compile(r"/(ld-linux-x86-64|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s))\.so")


def write_images(folder):
    """Noise, in the files of CIFAR-10."""
    noise = random.Random(1)
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        rows = (bytes([row % 10]) + noise.randbytes(3072) for row in range(40))
        (folder / name).write_bytes(b"".join(rows))


class GpuBundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(dir=BUILD)
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.archive = cls.folder / "bundle.tar.gz"
        subprocess.run([HERE / "bundle.sh", cls.archive, BUILD], check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(cls.archive) as archive:
            archive.extractall(cls.folder)
        cls.bundle = cls.folder / "ham-gpu"
        cls.data = cls.folder / "data"
        cls.data.mkdir()
        write_images(cls.data)

    def environment(self, **more):
        """As elsewhere: without the paths of this build."""
        return {key: value for key, value in os.environ.items() if not key.startswith(("HAM_", "LD_", "GTEST_"))} | more

    def run_checks(self, *arguments, **environment):
        return subprocess.run([self.bundle / "run.sh", *arguments], capture_output=True, text=True, timeout=450,
                              env=self.environment(**environment))

    def test_is_small_and_whole(self):
        self.assertLessEqual(self.archive.stat().st_size, 60_000_000)
        path = ":".join(map(str, [self.bundle / "lib", LIBTORCH / "torch/lib", *LIBTORCH.glob("nvidia/*/lib")]))
        programs = sorted(self.bundle.glob("bin/*"))
        self.assertEqual([program.name for program in programs],
                         ["gpu_steps", "gpu_test", "ham-coordinator", "ham-trainer", "ham-trainer-cuda", "ham-worker",
                          "hamctl"])
        for program in programs:
            found = subprocess.run(["ldd", program], capture_output=True, text=True, check=True,
                                   env=self.environment(LD_LIBRARY_PATH=path)).stdout
            self.assertNotIn("not found", found)
            for library in re.findall(r"=> (\S+)", found):
                if not library.startswith((str(self.bundle), str(LIBTORCH))):
                    self.assertRegex(library, RUN_TIME)
        for program in programs[2:]:
            version = subprocess.run([program, "--version"], capture_output=True, text=True,
                                     env=self.environment(LD_LIBRARY_PATH=path))
            self.assertEqual((version.returncode, version.stderr), (0, ""), program)
        self.assertRegex((self.bundle / "COMMIT").read_text(), r"^([0-9a-f]{40}( with changes)?|unknown)\n$")

    @unittest.skipIf(os.path.exists("/proc/driver/nvidia"), "this host has an NVIDIA driver")
    def test_says_that_there_is_no_gpu(self):
        done = self.run_checks(self.data, self.folder / "none")
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (3, "", "run.sh: there is no NVIDIA driver on this host: nothing was run\n"))

    def test_refuses_a_wrong_call(self):
        for arguments, expected in [((self.folder, self.folder / "out"), "data_batch_1.bin.xz: DATA is CIFAR-10's"),
                                    ((self.data, self.folder / "out", "speed"), "speed is no stage")]:
            done = self.run_checks("--rehearse", *arguments, PYTHONPATH=str(LIBTORCH))
            self.assertEqual(done.returncode, 2)
            self.assertIn(expected, done.stderr)
        done = self.run_checks("--rehearse", self.data, self.folder / "out", PYTHON="/nowhere/python")
        self.assertEqual((done.returncode, done.stderr),
                         (2, "run.sh: there is no /nowhere/python: name a Python by PYTHON\n"))

    def test_rehearses_on_the_cpu(self):
        """Without PyTorch for Python, whose libraries alone are here then, all but the peers."""
        has_peers = (PEERS / "complete").exists()
        python = {"PYTHON": str(PEERS / "bin/python")} if has_peers else {"PYTHONPATH": str(LIBTORCH)}
        out = self.folder / "out"
        done = self.run_checks("--rehearse", self.data, out, **python)
        results = json.loads((out / "results.json").read_text())
        stages = results["stages"]
        self.assertEqual(list(stages), ["correctness", "epochs", "evaluation", "autoattack", "service",
                                        "benchmarks"], done.stdout)
        for name in ("correctness", "epochs", "evaluation", "autoattack", "service"):
            self.assertNotIn("failed", stages[name], f"{done.stdout}\n{done.stderr}")
        self.assertEqual(len(stages["epochs"]["ham"]["images_per_second"]), 3)
        # One network, which no step changed, in what is one precision on a CPU.
        self.assertEqual(stages["evaluation"]["bf16"]["robust_accuracy"], stages["evaluation"]["fp32"]["robust_accuracy"])
        self.assertEqual(stages["evaluation"]["bf16"]["rows"], 32)
        service = stages["service"]
        self.assertEqual(len(service["training"]["images_per_second"]), 2)
        self.assertEqual(service["evaluation"]["rows"], 16)
        # Where a silence is usual, half of --hang-bound is allowed; five beats, where beats are a second apart.
        self.assertGreater(service["faults"]["stopped"]["declared_seconds"], 4)
        self.assertLess(service["faults"]["killed"]["declared_seconds"], service["faults"]["stopped"]["declared_seconds"])
        self.assertEqual([path.name for path in (out / "service").iterdir() if path.is_dir()], [])
        compared = stages["benchmarks"]["comparisons"]["rehearsal"]
        for name, measured in (compared["programs"] | compared["profiles"]).items():
            if has_peers or not name.endswith("replayed"):
                self.assertGreater(measured.get("images_per_second", 0), 0, f"{name}: {measured}")
        if has_peers:
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            # They did as much work: as many rows were hard.
            shares = {compared["programs"][name]["hard_share"] for name in ("published-replayed", "tuned-replayed")}
            self.assertEqual(len(shares), 1)


if __name__ == "__main__":
    xml_runner.main()
