"""The files of deploy/prometheus by promtool: their form, their unit tests, and that those tests see a wrong rule. The
commands that alerts name are there."""
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import xml_runner  # noqa: E402

RULES = ROOT / "deploy" / "prometheus"
TESTS = ROOT / "tests" / "operations" / "alerts_test.yml"
BIN = pathlib.Path(os.environ["HAM_BIN"])


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=200)


def alerts():
    """Each alert's name and text."""
    parts = re.split(r"^ *- alert: (\w+)\n", (RULES / "alert_rules.yml").read_text(), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def commands():
    """What runbooks name, each once: (alert, command)."""
    for alert, text in alerts().items():
        runbook = " ".join(text.split("runbook:")[1].split())
        for command in re.findall(r"`([^`]+)`", runbook):
            yield alert, command


class Rules(unittest.TestCase):
    def test_files_are_well_formed(self):
        for arguments in (["check", "config", RULES / "prometheus.yml"],
                          ["check", "rules", "--lint=all", "--lint-fatal", RULES / "alert_rules.yml",
                           RULES / "recording_rules.yml"]):
            done = promtool(*arguments)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_each_alert_says_what_it_is_and_what_to_do(self):
        self.assertGreater(len(alerts()), 10)
        for alert, text in alerts().items():
            for key in ("severity", "summary", "description", "runbook"):
                self.assertEqual(len(re.findall(rf"^ +{key}:", text, re.M)), 1, f"{alert}: {key}")
            self.assertIn(alert, [a for a, _ in commands()], f"{alert} names no command")

    def test_unit_tests_pass(self):
        done = promtool("test", "rules", TESTS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def unit_tests(self, about, rules):
        """Runs the unit tests whose text has `about`, with other text in the place of alert_rules.yml."""
        head, *groups = re.split(r"^(?=  - name: )", TESTS.read_text().replace("../../deploy/prometheus/", ""), flags=re.M)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "alert_rules.yml").write_text(rules)
            (folder / "recording_rules.yml").write_text((RULES / "recording_rules.yml").read_text())
            (folder / "test.yml").write_text(head + "".join(group for group in groups if about in group))
            return promtool("test", "rules", folder / "test.yml")

    def test_unit_tests_see_an_alert_that_never_fires_and_one_that_always_does(self):
        whole = (RULES / "alert_rules.yml").read_text()
        for alert, text in alerts().items():
            expression = re.search(r"^ +expr: (?:.*[^>]\n|>\n(?: {10}.*\n)+)", text, re.M).group(0)
            for wrong, about in (("vector(1) > 2", alert), ("vector(1)", "a calm day")):
                changed = whole.replace(text, text.replace(expression, f"        expr: {wrong}\n"))
                self.assertNotEqual(changed, whole)
                done = self.unit_tests(about, changed)
                self.assertNotEqual(done.returncode, 0, f"{alert} as {wrong} passes")
                self.assertIn(alert, done.stdout + done.stderr)

    def test_runbooks_name_commands_that_are_there(self):
        for alert, command in commands():
            with self.subTest(alert=alert, command=command):
                program, *words = shlex.split(command)
                self.assertIn(program, ("hamctl", "ham-coordinator", "ham-worker"))
                flags = [word for word in words if word.startswith("--")]
                names = []  # of subcommands: the words before flags and operands
                for word in words:
                    if not re.fullmatch("[a-z][a-z-]*", word):
                        break
                    names.append(word)
                done = subprocess.run([BIN / program, *names, "--help"], capture_output=True, text=True, timeout=30)
                self.assertEqual(done.returncode, 0, done.stderr)
                for flag in flags:
                    self.assertRegex(done.stdout, rf"{flag}\b")


if __name__ == "__main__":
    xml_runner.main()
