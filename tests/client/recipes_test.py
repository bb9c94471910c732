"""The job specs in deploy/ are ones that hamctl accepts."""
import os
import pathlib
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import xml_runner  # noqa: E402


class RecipesTest(unittest.TestCase):
    def test_hamctl_accepts_every_spec(self):
        for folder in ("recipes", "quickstart"):
            specs = sorted((ROOT / "deploy" / folder).glob("*.yaml"))
            self.assertTrue(specs, folder)
            for spec in specs:
                with self.subTest(spec=f"{folder}/{spec.name}"):
                    weights = ["--weights", __file__] if "\nevaluate:" in spec.read_text() else []  # any file
                    done = subprocess.run([os.environ["HAM_CTL"], "submit", "--dry-run", spec, "-o", "json", *weights],
                                          capture_output=True, text=True, timeout=60)
                    self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    xml_runner.main()
