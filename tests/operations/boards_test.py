"""The boards of deploy/grafana are those of their source, whole, and ask only for series that are exposed."""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "tests" / "operations"))
import xml_runner  # noqa: E402
from board_queries import BOARDS, boards, interpolated, metric_names  # noqa: E402
from python_packages import environment_with  # noqa: E402

GRAFANA = ROOT / "deploy" / "grafana"
RULES = ROOT / "deploy" / "prometheus"
# Of Prometheus itself.
OWN = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_scraped"}
READ_BACK = """
import json, pathlib, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
for path in map(pathlib.Path, sys.argv[1:]):
    text = path.read_text()
    if json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(json.loads(text)))) != json.loads(text):
        sys.exit(f"{path} holds what the SDK does not know")
"""


def exposed():
    """Names of the series in the source of the coordinator."""
    text = "".join(path.read_text() for path in (ROOT / "server").glob("*.cc"))
    names = set(re.findall(r'"((?:ham|process)_[a-z_]+)"', text))
    return names | {f"{name}_{part}" for name in names for part in ("sum", "count")}


def recorded():
    return set(re.findall(r"record: (\S+)", (RULES / "recording_rules.yml").read_text()))


class Boards(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.environment = environment_with(GRAFANA / "requirements.txt")
        cls.boards = boards()

    def test_are_what_their_source_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-B", GRAFANA / "make_boards.py", folder], env=self.environment, check=True)
            made = {path.name: path.read_text() for path in pathlib.Path(folder).glob("*.json")}
        there = {path.name: path.read_text() for path in BOARDS.glob("*.json")}
        self.assertEqual(sorted(made), sorted(there))
        for name, text in made.items():
            self.assertEqual(text, there[name], f"{name}: run deploy/grafana/make_boards.py")

    def test_are_known_to_the_sdk_field_by_field(self):
        done = subprocess.run([sys.executable, "-B", "-c", READ_BACK, *BOARDS.glob("*.json")], env=self.environment,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_have_panels_with_words_that_do_not_overlap(self):
        self.assertEqual(len({board.uid for board in self.boards}), len(self.boards))
        for board in self.boards:
            ids = [panel["id"] for panel in board.raw["panels"]]
            self.assertEqual(len(set(ids)), len(ids), board.uid)
            taken = set()
            for panel in board.raw["panels"]:
                place = panel["gridPos"]
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                         for y in range(place["y"], place["y"] + place["h"])}
                self.assertFalse(taken & cells, f"{board.uid}: {panel['title']} lies over another panel")
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                taken |= cells
            for panel in board.panels:
                self.assertTrue(panel.raw["description"], panel.title)
                self.assertTrue(panel.targets, panel.title)

    def test_define_the_variables_that_they_use(self):
        for board in self.boards:
            known = set()
            for variable in board.variables:
                self.assertLessEqual(set(re.findall(r"\$(\w+)", variable.series)), known, variable.name)
                known.add(variable.name)
            used = set().union(*(panel.variables() for panel in board.panels))
            used |= {name for variable in board.variables for name in re.findall(r"\$(\w+)", variable.series)}
            self.assertEqual(used, known, board.uid)

    def test_queries_are_promql(self):
        lines = ["groups:", "  - name: boards", "    rules:"]
        for board in self.boards:
            for panel in board.panels:
                for target in panel.targets:
                    lines += [f"      - record: panel:{len(lines)}:query",
                              f"        expr: '{interpolated(target['expr'])}'"]
            for annotation in board.raw["annotations"].get("list", []):
                lines += [f"      - record: annotation:{len(lines)}:query", f"        expr: '{interpolated(annotation['expr'])}'"]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as rules:
            rules.write("\n".join(lines) + "\n")
            rules.flush()
            done = subprocess.run(["promtool", "check", "rules", "--lint=none", rules.name], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_ask_for_series_that_are_exposed(self):
        known = exposed() | recorded() | OWN
        asked = {}
        for board in self.boards:
            for panel in board.panels:
                for target in panel.targets:
                    asked.update({name: f"{board.uid}: {panel.title}" for name in metric_names(target["expr"])})
            for variable in board.variables:
                asked.update({name: f"{board.uid}: ${variable.name}" for name in metric_names(variable.series)})
        for path in RULES.glob("*_rules.yml"):
            asked.update({name: path.name for name in metric_names(expressions(path))})
        self.assertGreater(len(asked), 40)
        unknown = {name: where for name, where in asked.items() if name not in known}
        self.assertFalse(unknown)

    def test_show_the_worst_class_beside_every_average(self):
        for board in self.boards:
            for panel in board.panels:
                if "ham_job_robust_accuracy_ratio" not in metric_names(" ".join(t["expr"] for t in panel.targets)):
                    continue
                beside = [p for p in board.panels if p.place["y"] == panel.place["y"]]
                names = metric_names(" ".join(t["expr"] for p in beside for t in p.targets))
                self.assertIn("job_suite_split:ham_job_worst_class_robust_accuracy_ratio:min", names,
                              f"{board.uid}: {panel.title}")


def expressions(path):
    """The PromQL of a file of rules."""
    found = re.findall(r"^ +expr: ((?:.*[^>]\n)|>\n(?: {10}.*\n)+)", path.read_text(), re.M)
    return "\n".join(re.sub(r'"[^"]*"', '""', text) for text in found)


if __name__ == "__main__":
    xml_runner.main()
