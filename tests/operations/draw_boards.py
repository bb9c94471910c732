"""Draws boards as pictures, from what live.py has kept of their answers: a small stand-in for Grafana, which draws each
panel by the options in the board's JSON.

  draw_boards.py ANSWERS.json FOLDER       needs the packages of requirements.txt
"""
import colorsys
import datetime
import json
import math
import pathlib
import re
import sys

import matplotlib
matplotlib.use("Agg")
from matplotlib import colormaps, pyplot  # noqa: E402
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import MaxNLocator, MultipleLocator  # noqa: E402

COLUMNS = 24
INCHES = 0.75, 0.42  # of a cell of the grid
GAP = 0.1
SMALL = 7
INK, FAINT, PAPER = "#24292e", "#8e8e8e", "#f4f5f5"
COLORS = {"green": "#37872d", "orange": "#ff780a", "red": "#c4162a", "text": INK}
LEGEND_LINES = 4


# ---- values as Grafana writes them

def scaled(value, base, names):
    size = 0
    while abs(value) >= base and size + 1 < len(names):
        value, size = value / base, size + 1
    return f"{trimmed(value)} {names[size]}".strip()


def trimmed(value):
    """Three digits, as Grafana's automatic decimals have it about."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds_text(value):
    for most, unit, name in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (60, 1, "s"), (3600, 60, "mins"),
                             (86400, 3600, "hours"), (7 * 86400, 86400, "days"), (365 * 86400, 7 * 86400, "weeks")):
        if abs(value) < most:
            return f"{trimmed(value / unit)} {name}" if value else "0 s"
    return f"{trimmed(value / (365 * 86400))} years"


UNITS = {
    "short": lambda value: scaled(value, 1000, ["", "K", "Mil", "Bil"]),
    "none": trimmed,
    "percentunit": lambda value: f"{trimmed(value * 100)}%",
    "s": seconds_text,
    "bytes": lambda value: scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]),
    "watt": lambda value: f"{trimmed(value)} W",
    "celsius": lambda value: f"{trimmed(value)} °C",
}


def written(value, unit):
    return UNITS[unit](value) if math.isfinite(value) else "NaN"


def mapped(raw, value):
    """(text, colour) of a value with a text of its own, else None."""
    for mapping in raw["fieldConfig"]["defaults"].get("mappings", []):
        found = mapping["options"].get(f"{value:g}")
        if found:
            return found["text"], COLORS[found["color"]]
    return None


def threshold_color(raw, value):
    color = INK
    for step in raw["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            color = COLORS[step["color"]]
    return color


# ---- series

def name_of(target, series):
    legend = target.get("legendFormat")
    if legend:
        return re.sub(r"\{\{(\w+)\}\}", lambda match: series["metric"].get(match[1], ""), legend)
    labels = {key: value for key, value in series["metric"].items() if key != "__name__"}
    name = series["metric"].get("__name__", "")
    return name + ("{" + ", ".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "") or target["expr"]


def all_series(panel):
    return [(name_of(target, series), series) for target, found in panel["answers"] for series in found]


def newest(series):
    return float(series["values"][-1][1])


def palette(count):
    """Colours that are told apart; those of Grafana's classic palette at first."""
    classic = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff", "#fa6400",
               "#8f3bb8"]
    return (classic + [colorsys.hsv_to_rgb(i / max(count, 1), 0.7, 0.7) for i in range(count)])[:max(count, 1)]


def with_gaps(values, step):
    """Times and values; where points are missing the line breaks, as Grafana draws it."""
    times, heights = [], []
    for moment, text in values:
        if times and moment - times[-1] > 1.5 * step:
            times.append(times[-1] + step)
            heights.append(math.nan)
        times.append(moment)
        heights.append(float(text))
    return times, heights


def dated(times):
    return [datetime.datetime.fromtimestamp(moment, datetime.timezone.utc) for moment in times]


# ---- panels

class Picture:
    def __init__(self, board):
        self.board = board
        rows = max(p["raw"]["gridPos"]["y"] + p["raw"]["gridPos"]["h"] for p in board["panels"])
        self.height = rows + 1
        self.figure = pyplot.figure(figsize=(COLUMNS * INCHES[0], self.height * INCHES[1]), facecolor=PAPER)
        self.figure.text(0.01, 1 - 0.3 / self.height, board["title"], fontsize=13, color=INK, va="top")

    def axes(self, place, left=0.0, bottom=0.0, top=0.0):
        """Within a panel; the margins in inches."""
        width, height = COLUMNS * INCHES[0], self.height * INCHES[1]
        x = place["x"] * INCHES[0] + GAP + left
        y = height - (place["y"] + 1 + place["h"]) * INCHES[1] + GAP + bottom
        w = place["w"] * INCHES[0] - 2 * GAP - left
        h = place["h"] * INCHES[1] - 2 * GAP - bottom - top
        return self.figure.add_axes((x / width, y / height, w / width, h / height))

    def draw(self):
        for raw in self.board["rows"]:
            axes = bare(self.axes(raw["gridPos"]))
            axes.text(0, 0.5, raw["title"], fontsize=11, color=INK, va="center", weight="bold")
        for panel in self.board["panels"]:
            raw = panel["raw"]
            frame = self.axes(raw["gridPos"])
            frame.set(xticks=[], yticks=[], facecolor="white")
            for side in frame.spines.values():
                side.set_color("#d8d9da")
            frame.set_title(raw["title"], fontsize=9, color=INK, loc="left", y=1.0, pad=-12, x=0.01)
            if not all_series(panel):
                frame.text(0.5, 0.5, "No data", color=FAINT, ha="center", va="center")
                continue
            DRAWN[raw["type"]](self, panel)
        return self.figure

    def over_time(self, place, left, bottom):
        axes = self.axes(place, left, bottom, top=0.25)
        axes.set_xlim(*dated([self.board["start"], self.board["end"]]))
        locator = AutoDateLocator(minticks=3, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
        axes.tick_params(labelsize=SMALL, colors=INK, length=2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return axes


def bare(axes):
    axes.axis("off")
    return axes


def draw_stat(picture, panel):
    raw = panel["raw"]
    found = all_series(panel)
    axes = bare(picture.axes(raw["gridPos"], top=0.2))
    for i, (name, series) in enumerate(found):
        value = newest(series)
        text, color = mapped(raw, value) or (written(value, raw["fieldConfig"]["defaults"]["unit"]),
                                             threshold_color(raw, value))
        text = name if raw["options"].get("textMode") == "name" else text
        axes.text(0.5, 1 - (i + 0.5) / len(found), text, fontsize=min(20, 150 / max(len(text), 1)) / len(found) ** 0.5,
                  color=color, ha="center", va="center")


def draw_lines(picture, panel):
    raw = panel["raw"]
    defaults = raw["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    found = all_series(panel)
    lines = min(LEGEND_LINES, math.ceil(sum(len(name) + 5 for name, _ in found) / (raw["gridPos"]["w"] * 10)))
    axes = picture.over_time(raw["gridPos"], left=0.6, bottom=0.3 + 0.16 * lines)
    step, unit = picture.board["step"], defaults["unit"]
    colors = palette(len(found))
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    bottoms = {}
    for (name, series), color in zip(found, colors):
        times, heights = with_gaps(series["values"], step)
        if stacked:
            below = [bottoms.get(moment, 0) for moment in times]
            heights = [base + height for base, height in zip(below, heights)]
            bottoms.update({moment: height for moment, height in zip(times, heights) if math.isfinite(height)})
        if custom.get("drawStyle") == "bars":
            axes.bar(dated(times), heights, width=0.8 * step / 86400, color=color, alpha=custom["fillOpacity"] / 100,
                     label=name)
            continue
        how = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
        axes.plot(dated(times), heights, color=color, linewidth=1.2, drawstyle=how, label=name)
        axes.fill_between(dated(times), below if stacked else 0, heights, color=color, linewidth=0,
                          alpha=custom["fillOpacity"] / 100, step="post" if how == "steps-post" else None)
    axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
    axes.yaxis.set_major_formatter(lambda value, _: written(value, unit))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=defaults.get("decimals") == 0, min_n_ticks=1))
    if unit == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(axes.get_ylim()[1] / 6))))
    axes.grid(axis="y", color="#e4e5e6", linewidth=0.6)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.12 * 8 / raw["gridPos"]["h"]), fontsize=SMALL,
                frameon=False, ncols=max(1, math.ceil(len(found) / lines)), borderaxespad=0, handlelength=1,
                columnspacing=1)


def draw_cells(picture, panel):
    """A row a series: colours by value, or by the text that a value has."""
    raw = panel["raw"]
    defaults = raw["fieldConfig"]["defaults"]
    found = all_series(panel)
    axes = picture.over_time(raw["gridPos"], left=0.2 + 0.06 * max(len(name) for name, _ in found), bottom=0.25)
    step, used = picture.board["step"], {}
    for i, (name, series) in enumerate(found):
        for moment, text in series["values"]:
            value = float(text)
            told = mapped(raw, value)
            if told:
                used[told] = None
                color = told[1]
            else:
                color = colormaps["RdYlGn"]((value - defaults["min"]) / (defaults["max"] - defaults["min"]))
            left, right = matplotlib.dates.date2num(dated([moment, moment + step]))
            axes.add_patch(Rectangle((left, len(found) - 1 - i + 0.05), right - left, 0.9, color=color, linewidth=0))
    axes.set_ylim(0, len(found))
    axes.set_yticks([len(found) - 0.5 - i for i in range(len(found))], [name for name, _ in found])
    for text, color in used:
        axes.plot([], [], color=color, linewidth=5, label=text)
    if used:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=SMALL, frameon=False, ncols=len(used))


def draw_gauges(picture, panel):
    raw = panel["raw"]
    defaults = raw["fieldConfig"]["defaults"]
    found = all_series(panel)
    axes = picture.axes(raw["gridPos"], left=0.2 + 0.06 * max(len(name) for name, _ in found), top=0.3)
    for side in axes.spines.values():
        side.set_visible(False)
    for i, (_, series) in enumerate(found):
        value, y = newest(series), len(found) - 1 - i
        share = (value - defaults["min"]) / (defaults["max"] - defaults["min"])
        axes.barh(y, 1, height=0.7, color="#ececec")
        axes.barh(y, share, height=0.7, color=colormaps["RdYlGn"](share))
        axes.text(1.01, y, written(value, defaults["unit"]), fontsize=SMALL, va="center", color=INK)
    axes.set(xlim=(0, 1.15), ylim=(-0.5, len(found) - 0.5), xticks=[])
    axes.set_yticks([len(found) - 1 - i for i in range(len(found))], [name for name, _ in found], fontsize=SMALL)
    axes.tick_params(length=0)


def table_of(panel):
    """(headings, rows of (text, colour or None)), after the panel's transformations."""
    raw = panel["raw"]
    todo = {one["id"]: one["options"] for one in raw["transformations"]}
    several = len(panel["answers"]) > 1
    key = todo["joinByField"]["byField"] if several else None
    rows, headings = {}, []
    for target, found in panel["answers"]:
        value = f"Value #{target['refId']}" if several else "Value"
        for series in found:
            row = rows.setdefault(series["metric"].get(key) if several else json.dumps(series["metric"]), {})
            for name, content in (*series["metric"].items(), (value, newest(series))):
                row[name] = content
                if name not in headings:
                    headings.append(name)
    organized = todo["organize"]
    headings = [name for name in headings if not organized["excludeByName"].get(name)]
    headings = sorted(headings, key=lambda name: organized["indexByName"].get(name, math.inf))
    overrides = {one["matcher"]["options"]: {p["id"]: p["value"] for p in one["properties"]}
                 for one in raw["fieldConfig"]["overrides"]}
    cells = []
    for row in rows.values():
        cells.append([])
        for name in headings:
            content, own = row.get(name, ""), overrides.get(organized["renameByName"].get(name, name), {})
            color = None
            if isinstance(content, float):
                if "color" in own:
                    color = colormaps["RdYlGn"]((content - own["min"]) / (own["max"] - own["min"]))
                content = written(content, own.get("unit", raw["fieldConfig"]["defaults"]["unit"]))
            cells[-1].append((content, color))
    return [organized["renameByName"].get(name, name) for name in headings], cells


def draw_table(picture, panel):
    headings, rows = table_of(panel)
    axes = bare(picture.axes(panel["raw"]["gridPos"], left=0.1, top=0.3))
    most = int(panel["raw"]["gridPos"]["h"] * INCHES[1] / 0.25) - 2
    widths = [max(len(str(text)) for text in (heading, *(row[i][0] for row in rows))) + 2
              for i, heading in enumerate(headings)]
    left = 0
    for i, heading in enumerate(headings):
        share = widths[i] / sum(widths)
        axes.text(left, 1, heading, fontsize=8, weight="bold", va="top", color="#3865ab")
        for number, row in enumerate(rows[:most], start=1):
            text, color = row[i]
            top = 1 - number / (most + 1)
            if color is not None:
                axes.add_patch(Rectangle((left - 0.002, top - 0.8 / (most + 1)), share, 0.95 / (most + 1), color=color,
                                         linewidth=0))
            dark = color is not None and sum(color[:3]) < 1.3
            axes.text(left, top, text, fontsize=8, va="top", color="white" if dark else INK)
        left += share
    axes.set(xlim=(0, 1), ylim=(0, 1))


DRAWN = {"stat": draw_stat, "timeseries": draw_lines, "status-history": draw_cells, "state-timeline": draw_cells,
         "bargauge": draw_gauges, "table": draw_table}


def main():
    answers, folder = map(pathlib.Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for board in json.loads(answers.read_text()):
        figure = Picture(board).draw()
        figure.savefig(folder / f"{board['uid']}.png", dpi=90)
        pyplot.close(figure)


if __name__ == "__main__":
    main()
