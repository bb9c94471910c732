"""Panels, variables and boards of ham in the words of the Grafana Foundation SDK."""
from grafana_foundation_sdk.builders import (bargauge, common, dashboard, prometheus, stat, statetimeline,
                                             statushistory, table, timeseries)
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATIO, SECONDS, BYTES = "percentunit", "s", "bytes"
COUNT, NUMBER = "short", "none"  # whole, and with fractions
ACCURACY = "accuracy"  # of a column of a table: a ratio, coloured by ROBUSTNESS
# The colours of a class's robustness: 0 is red, all is green.
ROBUSTNESS = model.FieldColorModeId.CONTINUOUS_RD_YL_GR


class Query:
    """PromQL; `legend` names a series by its labels, as {{label}}."""

    def __init__(self, expr, legend=""):
        self.expr, self.legend = " ".join(expr.split()), legend


def each_interval(by, counter):
    """By how much the sum of a counter grew from point to point: whole numbers, each event in one point. increase()
    over Grafana's windows would show it in several of them, and as fractions. 0 where the coordinator starts again."""
    total = f"sum by ({by}) ({counter}"
    return f"clamp_min({total}) - {total} offset $__interval), 0)"


def _targets(panel, queries, instant, as_table=False):
    for letter, query in zip("ABCDEFGHIJ", queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(PROMETHEUS)
        target = target.instant() if instant else target.range()
        panel.with_target(target.format(PromQueryFormat.TABLE) if as_table else target)
    return panel


def _panel(builder, title, description, width, height, unit):
    return (builder.title(title).description(description).datasource(PROMETHEUS).unit(unit)
            .span(width).height(height))


def _mappings(texts):
    return [model.ValueMap(options={str(value): model.ValueMappingResult(text=text, color=color, index=i)
                                    for i, (value, (text, color)) in enumerate(texts.items())})]


def _thresholds(steps):
    """`steps`: (from, colour), the first from None."""
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(
        [model.Threshold(value=value, color=color) for value, color in steps])


def number(title, description, query, unit=COUNT, width=4, texts=None, steps=None, show_name=False):
    """The newest value, large; with show_name the series' name in its place."""
    panel = _panel(stat.Panel(), title, description, width, 4, unit)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.graph_mode(common_model.BigValueGraphMode.NONE)
    panel.color_mode(common_model.BigValueColorMode.VALUE)
    panel.thresholds(_thresholds(steps or [(None, "text")]))
    if show_name:
        panel.text_mode(common_model.BigValueTextMode.NAME)
    if texts:
        panel.mappings(_mappings(texts))
    return _targets(panel, [query], instant=True)


def lines(title, description, *queries, unit=COUNT, width=12, most=None, stacked=False, steps=False, bars=False):
    """Values over time; `steps`: each holds until the next. From 0 on, to `most` where given."""
    panel = _panel(timeseries.Panel(), title, description, width, 8, unit).min(0)
    if most is not None:
        panel.max(most)
    if unit == COUNT:
        panel.decimals(0)
    panel.fill_opacity(30 if stacked else 5)
    panel.show_points(common_model.VisibilityMode.NEVER)
    panel.legend(common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST)
                 .placement(common_model.LegendPlacement.BOTTOM).show_legend(True))
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    if steps:
        panel.line_interpolation(common_model.LineInterpolation.STEP_AFTER)
    if bars:
        panel.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(60)
    return _targets(panel, queries, instant=False)


def heat_map(title, description, query, width=16, height=10):
    """A row a series, a cell a moment, coloured from 0 (red) to 1 (green)."""
    panel = _panel(statushistory.Panel(), title, description, width, height, RATIO).min(0).max(1)
    panel.color_scheme(dashboard.FieldColor().mode(ROBUSTNESS))
    panel.show_value(common_model.VisibilityMode.AUTO)
    return _targets(panel, [query], instant=False)


def states(title, description, query, texts, width=12, height=8):
    """A bar a series that changes its colour with the value."""
    panel = _panel(statetimeline.Panel(), title, description, width, height, COUNT)
    panel.mappings(_mappings(texts)).merge_values(True).show_value(common_model.VisibilityMode.NEVER)
    return _targets(panel, [query], instant=False)


def gauges(title, description, *queries, width=8, height=8):
    """A bar a series, of ratios."""
    panel = _panel(bargauge.Panel(), title, description, width, height, RATIO).min(0).max(1)
    panel.color_scheme(dashboard.FieldColor().mode(ROBUSTNESS))
    panel.orientation(common_model.VizOrientation.HORIZONTAL)
    panel.display_mode(common_model.BarGaugeDisplayMode.BASIC)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _targets(panel, queries, instant=True)


def rows(title, description, labels, columns, width=24, height=9):
    """A table: a row a value of the first of `labels`. `columns`: (heading, Query, unit); of the first query the labels
    are columns too, of the others the value alone."""
    panel = _panel(table.Panel(), title, description, width, height, COUNT)
    hidden = {name: True for name in ["Time", *(f"Time {i + 1}" for i in range(len(columns)))]}
    renamed = {label: label.removeprefix("alert").replace("_", " ").capitalize() for label in labels}
    for letter, (heading, _, unit) in zip("ABCDEFGHIJ", columns):
        value = f"Value #{letter}" if len(columns) > 1 else "Value"
        if heading:
            renamed[value] = heading
            properties = [model.DynamicConfigValue(id_val="unit", value=RATIO if unit == ACCURACY else unit)]
            if unit == ACCURACY:
                background = {"type": "color-background"}
                properties += [model.DynamicConfigValue(id_val="custom.cellOptions", value=background),
                               model.DynamicConfigValue(id_val="min", value=0),
                               model.DynamicConfigValue(id_val="max", value=1),
                               model.DynamicConfigValue(id_val="color", value={"mode": ROBUSTNESS.value})]
            panel.override_by_name(heading, properties)
        else:
            hidden[value] = True
    if len(columns) > 1:
        panel.with_transformation(model.DataTransformerConfig(
            id_val="joinByField", options={"byField": labels[0], "mode": "outer"}))
    panel.with_transformation(model.DataTransformerConfig(
        id_val="organize", options={"excludeByName": hidden, "renameByName": renamed,
                                    "indexByName": {label: i for i, label in enumerate(labels)}}))
    return _targets(panel, [query for _, query, _ in columns], instant=True, as_table=True)


def variable(name, label, query, several=False):
    """Filled from the values of a label."""
    result = (dashboard.QueryVariable(name).label(label).query({"query": query, "refId": name}).datasource(PROMETHEUS)
              .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC))
    if several:
        result.multi(True).include_all(True).current(model.VariableOption(selected=True, text="All", value="$__all"))
    return result


def moments(name, expr, color):
    """Marks on all panels, where `expr` has a value."""
    return dashboard.AnnotationQuery().name(name).datasource(PROMETHEUS).expr(expr).icon_color(color).enable(True)


def board(uid, title, description, variables, contents, annotations=()):
    """`contents`: panels, and strings that begin a row."""
    result = (dashboard.Dashboard(title).uid(uid).description(description).tags(["ham"]).timezone("browser")
              .tooltip(model.DashboardCursorSync.CROSSHAIR).refresh("15s").time("now-3h", "now").readonly())
    result.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for one in variables:
        result.with_variable(one)
    for one in annotations:
        result.annotation(one)
    result.link(dashboard.DashboardLink("ham").type(model.DashboardLinkType.DASHBOARDS).tags(["ham"])
                .as_dropdown(True).keep_time(True).include_vars(True))
    for i, content in enumerate(contents, start=1):
        if isinstance(content, str):
            result.with_row(dashboard.Row(content).id(i))
        else:
            result.with_panel(content.id(i))
    return result.build()
