"""Jobs on samples of real data sets, each for two epochs; skipped aloud where HAM_TEST_DATA has them not."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import Cluster, spec  # noqa: E402

FOLDERS = ["cifar-10-batches-bin", "cifar-100-sample", "imagenette-sample", "svhn-sample"]
DATA = pathlib.Path(os.environ.get("HAM_TEST_DATA", "/nowhere"))


def write_start(packed, target, size):
    """The first `size` bytes of an .xz file."""
    with subprocess.Popen(["xz", "-dc", str(packed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpack:
        target.write_bytes(unpack.stdout.read(size))
        unpack.kill()


def make_data_root(root):
    """Data sets under their names; of CIFAR-10 200 rows a file."""
    (root / "cifar-10").mkdir()
    for packed in (DATA / "cifar-10-batches-bin").glob("*.bin.xz"):
        write_start(packed, root / "cifar-10" / packed.stem, 200 * 3073)
    (root / "cifar-100").symlink_to(DATA / "cifar-100-sample")
    (root / "imagenette").symlink_to(DATA / "imagenette-sample")
    (root / "svhn").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):  # the sample has no test set
        (root / "svhn" / name).symlink_to(next((DATA / "svhn-sample").glob("*.mat")))


@unittest.skipUnless(all((DATA / folder).is_dir() for folder in FOLDERS),
                     f"HAM_TEST_DATA names no folder with {', '.join(FOLDERS)}")
class RealDataSets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.TemporaryDirectory(prefix="ham-data-")
        cls.addClassCleanup(cls.root.cleanup)
        make_data_root(pathlib.Path(cls.root.name))
        cls.cluster = Cluster(workers=2, data_root=cls.root.name)
        cls.addClassCleanup(cls.cluster.__exit__, None)

    def train(self, name, train_rows, test_rows, classes):
        job = self.cluster.submit(spec(data={"name": name, "train_rows": train_rows, "test_rows": test_rows}))
        self.cluster.wait_state(job, "SUCCEEDED", "FAILED")
        self.assertEqual(self.cluster.job(job)["state"], "SUCCEEDED", self.cluster.job(job).get("state_message"))
        metrics = [r["metric"] for r in self.cluster.records(job) if "metric" in r]
        evaluations = [m["evaluation"] for m in metrics if "evaluation" in m]
        self.assertEqual(len(evaluations[-1]["class_names"]), classes)
        self.assertEqual(sum(evaluations[-1]["per_class_rows"]), test_rows)
        self.assertEqual(len([m for m in metrics if m.get("train", {}).get("end_of_epoch")]), 2)

    def test_cifar_10(self):
        self.train("cifar-10", 256, 64, 10)

    def test_cifar_100(self):
        self.train("cifar-100", 256, 64, 100)

    def test_svhn(self):
        self.train("svhn", 256, 64, 10)

    def test_imagenette(self):
        self.train("imagenette", 0, 150, 10)

    def test_both_ranks_read_one_prepared_copy(self):
        self.train("imagenette", 64, 150, 10)
        names = sorted(p.name for p in (pathlib.Path(self.root.name) / ".ham-cache").glob("imagenette-*"))
        self.assertEqual([n.split("-")[1] for n in names], ["test", "train"])


if __name__ == "__main__":
    xml_runner.main()
