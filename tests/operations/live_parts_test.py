"""The parts of live.py that judge: how rules are made faster, what became of an alert, what a query was given."""
import pathlib
import re
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "chaos")]
import xml_runner  # noqa: E402
from board_data import View  # noqa: E402
from board_queries import interpolated  # noqa: E402
from live import Verdict  # noqa: E402
from live_prometheus import RULES, SCRAPE_SECONDS, SECONDS, faster  # noqa: E402
from live_scene import Fault  # noqa: E402

NUMBER = re.compile(r"(\d+)([smhd]?)\b")


def seconds_in(line):
    number, unit = NUMBER.search(re.split(r"for:|\[|>", line)[-1 if "[" not in line else 1]).groups()
    return int(number) * SECONDS.get(unit, 1)


class Faster(unittest.TestCase):
    def test_changes_all_durations_of_the_alerts_and_nothing_else(self):
        old = (RULES / "alert_rules.yml").read_text()
        changed = [(a, b) for a, b in zip(old.splitlines(), faster(old).splitlines(), strict=True) if a != b]
        for a, b in changed:
            self.assertEqual(seconds_in(a), seconds_in(b) * SCRAPE_SECONDS, a)
            self.assertEqual(NUMBER.sub("", a), NUMBER.sub("", b))
        expected = re.findall(r"^ +for: |^ +(?:expr: |)(?:increase|rate)\(.*\[\d+m\]|_seconds > \d+$", old, re.M)
        self.assertEqual(len(changed), len(expected))

    def test_refuses_what_is_no_whole_number_of_scrapes(self):
        with self.assertRaisesRegex(ValueError, "for: 20s"):
            faster("        for: 20s\n")


class Kept:
    """In the place of a Prometheus: an alert that fired at these moments."""

    def __init__(self, moments):
        self.moments = moments

    def fired(self, alert, start, end, job):
        return [moment for moment in self.moments if start <= moment <= end]


class Verdicts(unittest.TestCase):
    def verdict(self, moments, healed_at=110.0):
        return Verdict(Kept(moments), "A", Fault(("A",), "a fault", at=100.0, healed_at=healed_at), 130.0)

    def test_fired_and_cleared(self):
        found = self.verdict(range(104, 113))
        self.assertEqual((found.fired, found.cleared, found.good()), (4.0, 2.0, True))

    def test_cleared_as_it_was_healed(self):
        self.assertEqual(self.verdict(range(104, 110)).cleared, 0.0)

    def test_that_did_not_clear_is_not_good(self):
        found = self.verdict(range(104, 131))
        self.assertEqual((found.fired, found.cleared, found.good()), (4.0, None, False))

    def test_that_did_not_fire_is_not_good(self):
        self.assertFalse(self.verdict([]).good())

    def test_of_what_is_not_healed_need_not_clear(self):
        self.assertTrue(self.verdict(range(104, 131), healed_at=None).good())


class Asked:
    """In the place of a Prometheus: what it was asked, and one answer to all."""

    def __init__(self, values, labels=()):
        self.values, self.labels, self.asked = values, labels, []

    def instant(self, expr, moment):
        self.asked.append(expr)
        return [{"metric": {}, "value": [moment, value]} for value in self.values]

    def label_values(self, series, label, start, end):
        self.asked.append(series)
        return list(self.labels)


class Views(unittest.TestCase):
    def test_a_series_without_a_number_is_no_data(self):
        prometheus = Asked(["NaN", "1", "+Inf"])
        found = View(prometheus, 0, 100).ask({"expr": "x[$__rate_interval]", "instant": True}, {})
        self.assertEqual([series["values"] for series in found], [[[100, "1"]]])
        self.assertEqual(prometheus.asked, ["x[4s]"])

    def test_a_variable_of_several_values_has_all_of_them_quoted(self):
        class Variable:
            name, series, label, several = "job", "ham_job_info", "job", True

        class Board:
            variables = [Variable]
        ways, offered = View(Asked([], ["a.b", "c"]), 0, 100).choices(Board)
        self.assertEqual(interpolated('x{job=~"$job"}', ways[0]), 'x{job=~"(a\\\\.b|c)"}')
        self.assertEqual(offered, {"job": {"a.b", "c"}})


if __name__ == "__main__":
    xml_runner.main()
