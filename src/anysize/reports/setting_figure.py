"""The figure of a metric against a setting of the recipes."""

from collections.abc import Iterable
from typing import Any

from bokeh.models import ColumnDataSource, FixedTicker, HoverTool

from anysize.reports.by_setting import BySetting
from anysize.reports.columns import show, unit_of
from anysize.reports.figures import TICKS, add_legend, empty_figure, line_color
from anysize.reports.setting_values import show_setting

_APART = 0.03  # of the horizontal axis: what the ranges of all lines at one place take


def setting_figure(found: BySetting) -> Any:
    """A metric against a setting: medians, ranges from the lowest to the highest run, and each of several runs.

    A line joins the medians where the setting is a number; text has no order to join, its marks stand side by side.
    Ranges of several lines at one number are moved apart a little, or they would cover one another.
    """
    divisor, y_label = unit_of(found.metric, found.points["value"].max())
    if found.numeric:
        plot = empty_figure(found.x, y_label, height=380, x_axis_type="log" if found.logarithmic else "linear")
        if len(found.where) <= TICKS:
            plot.xaxis.ticker = FixedTicker(ticks=list(found.where))
        plot.xaxis.major_label_overrides = {value: show_setting(found.x, value) for value in found.where}
    else:
        plot = empty_figure(found.x, y_label, height=380, x_range=list(found.where))
        plot.xgrid.visible = False
    summary, legend, hovered = found.summary().reset_index("line"), {}, []
    for i, line in enumerate(found.lines):
        color, name = line_color(i), line or "all runs"
        aside = (i + 0.5) / len(found.lines) - 0.5
        medians = summary[summary["line"] == line]
        shown, lowest, highest = (
            [show(found.metric, value) for value in medians[column]] for column in ("median", "lowest", "highest")
        )
        source = ColumnDataSource(
            {
                **{column: medians[column] / divisor for column in ("median", "lowest", "highest")},
                "x": _beside(found, medians.index, aside),
                "where": [show_setting(found.x, value) for value in medians.index],
                "shown": shown,
                "range": [f"{low} to {high}" for low, high in zip(lowest, highest, strict=True)],
                "runs": medians["runs"],
            }
        )
        drawn = []
        if found.several:
            bar = {"line_width": 7, "line_alpha": 0.28, "line_cap": "round"}
            drawn.append(plot.segment("x", "lowest", "x", "highest", source=source, color=color, **bar))
            runs = found.points[found.points["line"] == line]
            each = ColumnDataSource({"x": _beside(found, runs["x"], aside), "y": runs["value"] / divisor})
            drawn.append(plot.scatter("x", "y", source=each, color=color, fill_color="white", size=5))
        if found.numeric:
            drawn.append(plot.line("x", "median", source=source, color=color, line_width=2))
        hovered.append(plot.scatter("x", "median", source=source, color=color, size=9, name=name))
        legend[name] = [*drawn, hovered[-1]]
    if found.line:
        add_legend(plot, legend, width=150)
    tips = [(found.line, "$name"), (found.x, "@where"), (found.label, "@shown"), ("range", "@range"), ("runs", "@runs")]
    plot.add_tools(HoverTool(renderers=hovered, tooltips=tips if found.line else tips[1:]))
    if found.points["value"].max() > 0:
        plot.y_range.default_span = found.points["value"].max() / divisor
    return plot


def _beside(found: BySetting, values: Iterable[Any], aside: float) -> list[Any]:
    """The places at which values of x are drawn; `aside` is from -0.5 to 0.5."""
    if not found.numeric:
        return [(value, 0.6 * aside) for value in values]
    shift = _APART * aside * found.several
    first, last = found.where[0], found.where[-1]
    if found.logarithmic:
        return [value * (last / first) ** shift for value in values]
    return [value + (last - first) * shift for value in values]
