"""Units and maintainer scripts of deploy/packages, by systemd's and shellcheck's checks. packages_test.py runs them."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402

FILES = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "packages"
BIN = pathlib.Path(os.environ["HAM_BIN"])
UNITS = ["ham-coordinator", "ham-worker"]
PACKAGES = ["ham-server", "ham-worker"]  # those with a unit
# By the scale of `systemd-analyze security`, 0 (least exposed) to 10. A worker's trainers need GPUs, ptrace and
# writable code.
EXPOSURE = {"ham-coordinator": 1.3, "ham-worker": 2.3}


def output(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


class UnitsTest(unittest.TestCase):
    def test_systemd_takes_them(self):
        with tempfile.TemporaryDirectory() as folder:
            for unit in UNITS:
                with self.subTest(unit=unit):
                    text = (FILES / f"{unit}.service").read_text()
                    here = pathlib.Path(folder) / f"{unit}.service"
                    here.write_text(text.replace("ExecStart=/usr/bin/", f"ExecStart={BIN}/"))
                    self.assertEqual(output("systemd-analyze", "verify", "--man=no", here), (0, ""))
                    # The check above sees what it is for.
                    here.write_text(here.read_text().replace("PrivateTmp=", "PrivateTemporary="))
                    self.assertIn("PrivateTemporary", output("systemd-analyze", "verify", "--man=no", here)[1])

    def test_exposure(self):
        for unit in UNITS:
            with self.subTest(unit=unit):
                code, text = output("systemd-analyze", "security", "--offline=yes", "--no-pager", "--json=short",
                                    f"--threshold={round(EXPOSURE[unit] * 10)}", FILES / f"{unit}.service")
                self.assertEqual(code, 0, text)
                self.assertIn("PrivateTmp=", {check["name"] for check in json.loads(text) if check["set"]})

    def test_programs_take_the_arguments(self):
        for unit in UNITS:
            with self.subTest(unit=unit):
                (command,) = re.findall("^ExecStart=/usr/bin/(.*)$", (FILES / f"{unit}.service").read_text(), re.M)
                program, *arguments = command.split()
                code, known = output(BIN / program, "--help")
                self.assertEqual(code, 0, known)
                examples = (FILES / f"{unit.removeprefix('ham-')}.env").read_text()
                flags = [word for word in arguments if word.startswith("--")]
                flags += re.findall(r"(?<= |\")--[a-z-]+", examples)
                self.assertGreater(len(flags), len(arguments) // 2)
                for flag in flags:
                    self.assertIn(f"{flag} ", known)


class MaintainerScriptsTest(unittest.TestCase):
    def test_the_shell_takes_them(self):
        for package in PACKAGES:
            for name in ("postinst", "prerm", "postrm"):
                with self.subTest(package=package, script=name):
                    script = pathlib.Path(os.environ["HAM_PACKAGE_FILES"]) / package / name
                    text = script.read_text()
                    self.assertNotIn("@", text)
                    self.assertTrue(text.startswith("#!/bin/sh\nset -e\n"))
                    self.assertEqual(output("shellcheck", "--shell=sh", script), (0, ""))


if __name__ == "__main__":
    xml_runner.main()
