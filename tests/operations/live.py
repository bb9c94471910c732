#!/usr/bin/env python3
"""Holds the boards and alerts of deploy against a real cluster and a real Prometheus.

  live.py [--pictures FOLDER] [--result FILE]

Starts a coordinator, two workers on CPUs and one with scripted GPUs, and a Prometheus with the files of
deploy/prometheus in which time goes 15 times faster; runs trainings and an evaluation, breaks what there is to break,
and prints tables of all panels, variables and alerts. HAM_BIN names the folder of the programs, HAM_SCRIPTED_NVML the
library in the place of NVML. Takes about five minutes; needs root for the faults of the disk. --pictures draws the
boards. Exit status 1 when a panel has no data, a variable no value, or an alert did not do what it should.
"""
import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "chaos")]
import ledger  # noqa: E402
from board_data import View, by_panel, seen  # noqa: E402
from live_prometheus import SCRAPE_SECONDS  # noqa: E402
from live_scene import Scene  # noqa: E402
from python_packages import environment_with  # noqa: E402
from rules_test import alerts as all_alerts  # noqa: E402

SHOWN = 56  # characters of a query


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def panel_rows(found):
    rows = [("board", "panel", "query", "series", "expression")]
    for board, answers, _ in found:
        for group in by_panel(answers):
            for answer in group:
                rows.append((board.uid, answer.panel.title, answer.target.get("refId", ""),
                             str(len(answer.series) or "no data"), answer.target["expr"][:SHOWN]))
    return rows


def variable_rows(found):
    rows = [("board", "variable", "values")]
    for board, _, offered in found:
        for variable in board.variables:
            values = sorted(offered.get(variable.name, ()))
            rows.append((board.uid, variable.name, f"{len(values)}: {' '.join(values)}"[:SHOWN] if values else "none"))
    return rows


class Verdict:
    """On one alert after one fault, by what Prometheus has kept."""

    def __init__(self, prometheus, alert, fault, end):
        self.alert, self.fault = alert, fault
        moments = prometheus.fired(alert, fault.at, end, fault.job)
        self.fired = moments[0] - fault.at if moments else None
        self.cleared = None
        if moments and fault.healed_at:
            after = [moment for moment in moments if moment >= fault.healed_at]
            silent = fault.healed_at
            while after and after[0] <= silent + 1.5:
                silent = after.pop(0)
            self.cleared = silent - fault.healed_at if silent < end - 2 else None

    def good(self):
        return self.fired is not None and (self.cleared is not None or not self.fault.healed_at)

    def row(self):
        return (self.alert, self.fault.words, "no" if self.fired is None else f"{self.fired:.0f} s",
                self.fault.healed_by or "-", "-" if not self.fault.healed_at else
                "no" if self.cleared is None else f"{self.cleared:.0f} s")


def unprovoked(scene, end):
    """Alerts that fired before anything was done that they may tell of."""
    wrong = []
    for alert in all_alerts():
        about = [fault.at for fault in scene.faults if alert in (*fault.alerts, *fault.beside)]
        moments = scene.prometheus.fired(alert, scene.start, end)
        if moments and (not about or moments[0] < min(about)):
            wrong.append(alert)
    return wrong


def keep_answers(found, view, path):
    """For draw_boards.py."""
    path.write_text(json.dumps([
        {"uid": board.uid, "title": board.raw["title"], "start": view.start, "end": view.end, "step": view.step,
         "rows": [panel for panel in board.raw["panels"] if panel["type"] == "row"],
         "panels": [{"raw": group[0].panel.raw, "answers": [(one.target, one.series) for one in group]}
                    for group in by_panel(answers) if "gridPos" in group[0].panel.raw]}
        for board, answers, _ in found]))


def report(scene, found, end):
    """(lines, whether all is as it should be)"""
    panels = [group for _, answers, _ in found for group in by_panel(answers)]
    filled = sum(all(answer.series for answer in group) for group in panels)
    variables = variable_rows(found)
    empty = sum(row[2] == "none" for row in variables)
    verdicts = [Verdict(scene.prometheus, alert, fault, end) for fault in scene.faults for alert in fault.alerts]
    alerts = all_alerts()
    good = {verdict.alert for verdict in verdicts} - {verdict.alert for verdict in verdicts if not verdict.good()}
    wrong = unprovoked(scene, end)
    untouched = {alert: scene.missing.get(alert, "nothing here provokes it") for alert in alerts
                 if alert not in {verdict.alert for verdict in verdicts}}
    now = datetime.datetime.now(datetime.timezone.utc)
    lines = [f"# By tests/operations/live.py, {now:%Y-%m-%d}, commit {ledger.current_commit()}, {os.cpu_count()} "
             f"cores, {end - scene.start:.0f} s; time of the rules {SCRAPE_SECONDS} times faster.",
             f"{filled} of {len(panels)} panels with data",
             f"{len(variables) - 1 - empty} of {len(variables) - 1} variables filled",
             f"{len(good - set(wrong))} of {len(alerts)} alerts fire as they should", "",
             *table(panel_rows(found)), "", *table(variables), "",
             *table([("alert", "provoked by", "fired", "healed by", "cleared"), *(v.row() for v in verdicts),
                     *((alert, f"not provoked: {why}", "-", "-", "-") for alert, why in untouched.items())])]
    lines += [f"{alert} fired although nothing was done that it may tell of" for alert in wrong]
    return lines, filled == len(panels) and not empty and all(v.good() for v in verdicts) and not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=pathlib.Path, help="folder for a picture of each board")
    parser.add_argument("--result", type=pathlib.Path, help="file that gets the tables")
    options = parser.parse_args()
    if "HAM_SCRIPTED_NVML" not in os.environ:
        parser.error("HAM_SCRIPTED_NVML must name the library in the place of NVML")
    # Before the scene, which has no network.
    painting = environment_with(HERE / "requirements.txt") if options.pictures else None
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ham-live-"))
    begin = time.monotonic()
    print(f"logs in {folder}", flush=True)

    def say(text):
        print(f"{time.monotonic() - begin:5.0f} s  {text}", flush=True)
    with tempfile.TemporaryDirectory() as kept, Scene(folder, say) as scene:
        scene.age()
        scene.begin_work()
        scene.break_workers()
        scene.fill_disk()
        scene.wait_for_jobs()
        view = View(scene.prometheus, scene.start, time.time())
        found = seen(view)
        say("the boards were read")
        scene.fill_quota()
        scene.wait_cleared()
        lines, good = report(scene, found, time.time())
        if options.pictures:
            answers = pathlib.Path(kept) / "answers.json"
            keep_answers(found, view, answers)
            subprocess.run([sys.executable, "-B", HERE / "draw_boards.py", answers, options.pictures], env=painting,
                           check=True)
    text = "\n".join(lines) + "\n"
    if options.result:
        options.result.write_text(text)
    print(text, end="")
    subprocess.run(["umount", folder / "state"], stderr=subprocess.DEVNULL)  # where there is a disk of its own
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
