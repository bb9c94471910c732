"""What the boards of deploy/grafana show of a Prometheus, asked for as Grafana asks."""
import itertools
import math
import re

from board_queries import boards, interpolated

POINTS = 300  # of a line, at most
SCRAPES_A_RATE = 4  # Grafana's $__rate_interval


class View:
    """Of one Prometheus: the time range of the boards."""

    def __init__(self, prometheus, start, end, scrape_seconds=1):
        self.prometheus, self.start, self.end = prometheus, start, end
        self.step = max(scrape_seconds, math.ceil((end - start) / POINTS))
        self.own = {"__interval": f"{self.step}s", "__range": f"{math.ceil(end - start)}s",
                    "__rate_interval": f"{max(self.step + scrape_seconds, SCRAPES_A_RATE * scrape_seconds)}s"}

    def ask(self, target, values):
        """Series with at least one number: neither NaN nor infinite."""
        expr = interpolated(target["expr"], {**self.own, **values})
        if target.get("instant"):
            series = [{"metric": one["metric"], "values": [one["value"]]}
                      for one in self.prometheus.instant(expr, self.end)]
        else:
            series = self.prometheus.over_time(expr, self.start, self.end, self.step)
        return [one for one in series if any(math.isfinite(float(value)) for _, value in one["values"])]

    def choices(self, board):
        """Each way in which the variables of the board can be set, as {name: text in queries}; one of several values
        has all of them. And the values that each variable was offered, over all ways."""
        ways, offered = [{}], {}
        for variable in board.variables:
            longer = []
            for way in ways:
                values = self.prometheus.label_values(interpolated(variable.series, way), variable.label, self.start,
                                                      self.end)
                offered.setdefault(variable.name, set()).update(values)
                if variable.several:
                    values = ["(" + "|".join(map(_quoted, values)) + ")"] if values else []
                longer += [{**way, variable.name: value} for value in values]
            ways = longer or ways
        return ways, offered


def _quoted(value):
    """For a regular expression in a string of PromQL."""
    return re.sub(r"([.*+?^${}()|\[\]\\])", r"\\\\\1", value)


class Answer:
    """To one query of a panel."""

    def __init__(self, panel, target, series, values):
        self.panel, self.target, self.series, self.values = panel, target, series, values


def answers_of(view, board):
    """To all queries of the board, with the choice of variables that gives most of them data, and then most series;
    where that gives none, with the first one that does."""
    ways, offered = view.choices(board)
    queries = [(panel, target) for panel in board.panels for target in panel.targets]
    queries += [(Marks(raw), raw) for raw in board.raw["annotations"].get("list", [])]
    asked = [[view.ask(target, way) for _, target in queries] for way in ways]
    best = max(range(len(ways)), key=lambda i: (sum(map(bool, asked[i])), sum(map(len, asked[i]))))
    order = [best, *(i for i in range(len(ways)) if i != best)]
    answers = []
    for number, (panel, target) in enumerate(queries):
        chosen = next((i for i in order if asked[i][number]), best)
        answers.append(Answer(panel, target, asked[chosen][number], ways[chosen]))
    return answers, offered


class Marks:
    """Of an annotation, as if it were a panel."""

    def __init__(self, raw):
        self.title, self.raw = f"marks: {raw['name']}", raw


def by_panel(answers):
    """[[Answer, ...], ...] a panel."""
    return [list(group) for _, group in itertools.groupby(answers, key=lambda answer: answer.panel)]


def seen(view):
    """[(board, answers, offered)]"""
    return [(board, *answers_of(view, board)) for board in boards()]
