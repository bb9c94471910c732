"""The boards of deploy/grafana as what they ask of Prometheus."""
import json
import pathlib
import re

BOARDS = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "boards"
LABEL_VALUES = re.compile(r"label_values\((?:(?P<series>.*), )?(?P<label>\w+)\)")


class Panel:
    def __init__(self, board, raw):
        self.board, self.raw = board, raw
        self.title, self.place = raw["title"], raw["gridPos"]
        self.targets = raw.get("targets", [])

    def variables(self):
        """Names that its queries ask for."""
        return {name for target in self.targets for name in re.findall(r"\$(\w+)", target["expr"])
                if not name.startswith("__")}


class Variable:
    def __init__(self, raw):
        self.name, self.several = raw["name"], raw.get("multi", False)
        match = LABEL_VALUES.fullmatch(raw["query"]["query"])
        self.series, self.label = match["series"], match["label"]


class Board:
    def __init__(self, path):
        self.raw = json.loads(path.read_text())
        self.uid = self.raw["uid"]
        self.panels = [Panel(self, panel) for panel in self.raw["panels"] if panel["type"] != "row"]
        self.variables = [Variable(raw) for raw in self.raw["templating"]["list"] if raw["type"] == "query"]


def boards():
    return [Board(path) for path in sorted(BOARDS.glob("*.json"))]


def interpolated(text, values={}):
    """With the value of each variable in its place; of one that is not in `values`, with something."""
    return re.sub(r"\$(\w+)", lambda match: values.get(match[1], "1m" if match[1].startswith("__") else "x"), text)


def metric_names(expr):
    """Names of metrics and of recorded series in PromQL."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    bare = re.sub(r"\b(?:on|by|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(re.findall(r"\b(?:\w+:)?(?:ham|process|scrape)_[\w:]+|\b[a-z_]+:ham_[\w:]+|\bup\b|\bALERTS\b", bare))
