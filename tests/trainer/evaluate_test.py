"""`ham-trainer evaluate` and `verify` on a network that ham-trainer trained, as their user runs them."""
import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import xml_runner  # noqa: E402

TRAINER = os.environ["HAM_TRAINER"]
HAMCTL = os.environ["HAM_HAMCTL"]
DATA = "/usr/share/datasets"
SPEC = """
train:
  data: {name: fashion-mnist, train_rows: 3000, test_rows: 100, validation_share: 0}
  method: {name: pgd-at}
  attack: {epsilon: 0.1, step_size: 0.05, steps: 2}
  epochs: 2
  evaluation: {every_epochs: 0}
"""
# All kinds of attacks, small enough for a second.
ATTACKS = "pgd:steps=3,apgd:steps=15,apgd-t:steps=10:targets=2,fab-t:steps=10:targets=2,square:steps=80"


def run(*command, cwd=None):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd)


def wait_for_lines(process, journal, count):
    """Until the journal has so many lines, or the process that writes it has ended."""
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < count):
        time.sleep(0.002)


class EvaluateTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        (cls.path / "job.yaml").write_text(SPEC)
        spec = run(HAMCTL, "submit", "--dry-run", cls.path / "job.yaml", "-o", "json")
        assert spec.returncode == 0, spec.stderr
        (cls.path / "job.json").write_text(spec.stdout)
        trained = run(TRAINER, "--spec", "job.json", "--work-dir", "run", cwd=cls.path)
        assert trained.returncode == 0, trained.stderr
        checkpoint = next(path for path in sorted((cls.path / "run" / "checkpoints").iterdir()) if path.is_dir())
        cls.weights = cls.path / "net.safetensors"
        exported = run(TRAINER, "export", checkpoint, cls.weights)
        assert exported.returncode == 0, exported.stderr
        cls.whole = cls.evaluate("whole.json")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def command(cls, record, *more):
        options = {"--weights": cls.weights, "--data": "fashion-mnist", "--rows": "90", "--epsilon": "0.1",
                   "--attacks": ATTACKS, "--record": cls.path / record} | dict(zip(more[::2], more[1::2]))
        return [TRAINER, "evaluate"] + [word for option in options.items() for word in option]

    @classmethod
    def evaluate(cls, record, *more):
        result = run(*cls.command(record, *more))
        assert result.returncode == 0, result.stderr
        return json.loads((cls.path / record).read_text())["record"]

    def expect_error(self, what, *more, command=None):
        result = run(*(command or self.command("bad.json", *more)))
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertIn(what, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertFalse((self.path / "bad.json").exists())

    def test_every_attack_finds_something_and_the_record_says_what(self):
        record = self.whole
        broken = [sum(bin(byte).count("1") for byte in base64.b64decode(bits)) for bits in record["samples"]["broken"]]
        self.assertEqual(broken, [attack["rows_broken"] for attack in record["attacks"]])
        self.assertGreater(broken[0], 0)
        self.assertGreater(sum(broken[1:]), 0)
        robust = record["figures"]["robust_accuracy"]["value"]
        self.assertAlmostEqual(robust, record["figures"]["clean_accuracy"]["value"] - sum(broken) / 90)
        for attack in record["attacks"]:
            self.assertGreater(int(attack["forward_passes"]) + int(attack["gradient_passes"]), attack["rows_tried"])

    def test_it_does_not_depend_on_batches(self):
        for batch in 16, 33:
            self.assertEqual(self.evaluate(f"batch{batch}.json", "--batch", str(batch))["samples"],
                             self.whole["samples"], batch)

    def test_shards_are_its_parts(self):
        margins = base64.b64decode(self.whole["samples"]["margins"])
        for index in range(4):
            part = self.evaluate(f"shard{index}.json", "--shard", f"{index}/4")
            rows = range(index, 90, 4)
            self.assertEqual(base64.b64decode(part["samples"]["margins"]),
                             b"".join(margins[4 * row:4 * row + 4] for row in rows))
            self.assertEqual(part["data"]["rows"], len(rows))

    def test_killed_again_and_again_it_goes_on(self):
        record = self.path / "killed.json"
        journal = self.path / "killed.json.journal"
        for lines in 3, 6, 9, 12:
            process = subprocess.Popen([str(word) for word in self.command("killed.json", "--batch", "20")],
                                       stdout=subprocess.DEVNULL)
            wait_for_lines(process, journal, lines)
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.assertFalse(record.exists())
        done = journal.read_bytes().count(b"\n")
        self.assertEqual(self.evaluate("killed.json", "--batch", "20")["samples"], self.whole["samples"])
        self.assertGreaterEqual(done, 12)
        self.assertFalse(journal.exists())

    def test_another_evaluation_does_not_go_on_from_its_journal(self):
        process = subprocess.Popen([str(word) for word in self.command("bad.json", "--batch", "5")],
                                   stdout=subprocess.DEVNULL)
        journal = self.path / "bad.json.journal"
        wait_for_lines(process, journal, 2)
        self.expect_error("another evaluation has")
        process.kill()
        process.wait()
        self.expect_error("of another model, data, attack list or program", "--seed", "1")
        journal.unlink()

    def test_verify_finds_the_same(self):
        verify = [TRAINER, "verify", self.path / "whole.json", "--weights", self.weights]
        result = run(*verify, "--shard", "1/3", "--batch", "16")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("30 of its 90 rows attacked again: all outcomes are equal", result.stdout)
        by_hamctl = run(HAMCTL, "eval", "verify", self.path / "whole.json", "--weights", self.weights, "--shard", "2/9")
        self.assertEqual(by_hamctl.returncode, 0, by_hamctl.stderr)
        self.assertIn("10 of its 90 rows attacked again: all outcomes are equal", by_hamctl.stdout)
        nowhere = run(HAMCTL, "eval", "verify", self.path / "whole.json", "--weights", self.weights, "--trainer", "/no")
        self.assertEqual((nowhere.returncode, nowhere.stdout), (5, ""))
        self.assertIn("cannot start /no: No such file or directory; name it by --trainer", nowhere.stderr)
        other = self.path / "other.safetensors"
        data = bytearray(self.weights.read_bytes())
        data[-1] ^= 1
        other.write_bytes(data)
        self.expect_error("holds other weights", command=verify[:-1] + [other])
        text = (self.path / "whole.json").read_text()
        margins = self.whole["samples"]["margins"]
        altered = bytearray(base64.b64decode(margins))
        altered[0] ^= 1  # last bit of the first margin: consistent, but not what is found
        changed = self.path / "changed.json"
        changed.write_text(text.replace(margins, base64.b64encode(altered).decode()))
        self.expect_error("1 of 90 rows differ: image 0: margin is ", command=[TRAINER, "verify", changed, "--weights", self.weights])
        for what, old, new in [("data.split is not that of", '"split":"test"', '"split":"train"'),
                               ("data.class_names is not that of", '"Ankle boot"', '"Boot"'),
                               ("model.extra_block is not that of", '"extra_block":false', '"extra_block":true'),
                               ("data.row_ids reaches 4000000089", '"first_row":0', '"first_row":4000000000')]:
            self.assertIn(old, text)
            changed.write_text(text.replace(old, new))
            self.expect_error(what, command=[TRAINER, "verify", changed, "--weights", self.weights])
        changed.write_text(text[:len(text) // 2])
        self.expect_error("changed.json: ", command=[TRAINER, "verify", changed, "--weights", self.weights])

    def test_says_what_is_wrong(self):
        self.expect_error('--epsilon is "0"; allowed is', "--epsilon", "0")
        self.expect_error("--rows is 10001, but fashion-mnist has 10000 test images", "--rows", "10001")
        self.expect_error('--attacks has "fgsm"', "--attacks", "fgsm")
        self.expect_error("targets is 10, of 10 classes; allowed is at most 9", "--attacks", "apgd-t:targets=10")
        self.expect_error("shard 5/100 of 4 rows is empty", "--rows", "4", "--shard", "5/100")
        self.expect_error("no-such", "--data", "no-such")
        self.expect_error("net.safetensors", "--model", "cnn-32-64")
        self.expect_error("cannot", "--record", self.path / "no" / "r.json")
        self.expect_error("built without CUDA", "--device", "cuda")
        self.expect_error("whole.json exists; remove it or name another", "--record", self.path / "whole.json")
        self.expect_error("exists; remove it or name another", "--record", self.path)
        cut = self.path / "cut.safetensors"
        cut.write_bytes(self.weights.read_bytes()[:-8])
        self.expect_error("cut.safetensors", "--weights", cut)
        shard = run(*self.command("bad.json", "--shard", "2/2"))
        self.assertEqual(shard.returncode, 2)
        self.assertIn("allowed is INDEX/COUNT", shard.stderr)


if __name__ == "__main__":
    xml_runner.main()
