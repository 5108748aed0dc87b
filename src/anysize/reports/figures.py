"""Bokeh figures for reports: curves over training, the size mixture, accuracy by size.

Dashes tell what is drawn: training is dashed and validation solid, as trained is dashed and calibrated solid. A click
in the legend hides a line. All colours are for a white ground: pages turn a figure as a whole for the dark scheme.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Legend,
    LinearAxis,
    NumeralTickFormatter,
    PrintfTickFormatter,
)
from bokeh.palettes import interp_palette
from bokeh.plotting import figure

from anysize.reports.columns import is_fraction, label, unit_of
from anysize.reports.tables import AS_TRAINED, by_size
from anysize.tasks.records import OBJECT_SIZES

# Okabe and Ito's colours, told apart by colour-blind readers too, without the yellow that fades on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6F4E9B", "#444444")

# For more lines than that: from dark blue over red to orange, at steps of lightness that every eye tells apart.
_MANY_COLORS = ("#0d0887", "#5302a3", "#8b0aa5", "#b83289", "#db5c68", "#f48849", "#eda41c")
_SIZE_COLORS = ("#c9e3f0", "#74b6d8", "#2a78b0", "#123c69")  # small to large
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_INK = "#3d4550"
_MARKED = 60  # lines of at most this many points show the points
_FEW_DECADES = 3  # have ticks between the powers of ten
_COSTS = (("size", "image size"), ("flops", "FLOPs of an image"), ("latency", "time of an image"))
TICKS = 16  # at most this many values have a tick each


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: values as they stand in the files; `legend` is shared by lines that are hidden together."""

    legend: str  # empty: not in the legend
    x: pd.Series
    y: pd.Series
    color: str
    dashed: bool = False
    detail: str = ""  # shown after the legend's name when the pointer is on the line


def line_color(i: int) -> str:
    """The colour of the line with this number; they repeat."""
    return COLORS[i % len(COLORS)]


def line_colors(count: int) -> tuple[str, ...]:
    """A colour for each of `count` lines; of more than `COLORS` each is next to its neighbours on one scale.

    >>> line_colors(2)
    ('#0072B2', '#D55E00')
    >>> len(set(line_colors(40)))
    40
    """
    return COLORS[:count] if count <= len(COLORS) else tuple(interp_palette(_MANY_COLORS, count))


def evenly(count: int, most: int) -> np.ndarray:
    """The places of at most `most` of `count` points, spread evenly, the first and the last among them.

    >>> evenly(7, 3).tolist(), evenly(2, 3).tolist()
    ([0, 3, 6], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def line_figure(lines: Sequence[Line], x: str, y: str, *, ticks: Sequence[int] = ()) -> Any:
    """Draw lines over column `x`; `y` names the column that they share, for units and labels.

    Points without a value are left out of their line. A learning rate that spans decades has a logarithmic axis.
    """
    data = [_points(line) for line in lines]
    every = pd.concat(data) if data else pd.DataFrame({"x": [], "y": []}, dtype=float)
    x_divisor, x_label = unit_of(x, every["x"].max())
    y_divisor, y_label = unit_of(y, every["y"].max())
    plot = empty_figure(x_label, y_label, y_axis_type="log" if spans_decades(y, every["y"]) else "linear")
    legend: dict[str, list[Any]] = {}
    hovered = []
    for line, points in zip(lines, data, strict=True):
        source = ColumnDataSource({"x": points["x"] / x_divisor, "y": points["y"] / y_divisor})
        dash = "dashed" if line.dashed else "solid"
        name = f"{line.legend} {line.detail}".strip()
        drawn = [plot.line("x", "y", source=source, color=line.color, line_dash=dash, line_width=2, name=name)]
        if len(points) <= _MARKED:
            fill = "white" if line.dashed else line.color
            drawn.append(plot.scatter("x", "y", source=source, color=line.color, fill_color=fill, size=6, name=name))
        hovered.append(drawn[0] if len(points) > 1 else drawn[-1])
        if line.legend:
            legend.setdefault(line.legend, []).extend(drawn)
    if legend:
        add_legend(plot, legend)
    value = "@y{0.00}%" if is_fraction(y) else "@y{%.4g}" if y == "lr" else "@y{0,0.000}"
    tips = [("", "$name"), (x_label, "@x{0,0.[00]}"), (label(y), value)]
    plot.add_tools(HoverTool(renderers=hovered, tooltips=tips, formatters={"@y": "printf"} if y == "lr" else {}))
    suit_axes(plot, x, y, every["y"], y_divisor, ticks)
    return plot


def suit_axes(
    plot: Any, x: str, y: str, values: "pd.Series[float]", divisor: float = 1, ticks: Sequence[int] = ()
) -> None:
    """Ticks and range that suit columns `x` and `y`, of which `values` are drawn in a unit of `divisor`."""
    if ticks:
        plot.xaxis.ticker = FixedTicker(ticks=list(ticks))
    elif x in ("epoch", "step"):
        plot.xaxis.ticker = BasicTicker(min_interval=1)
    if y == "lr":
        _readable_rates(plot, values)
    if y in ("images_per_second", "waiting"):
        plot.y_range.start = 0  # or its noise would look like a fall
    if values.max() > 0:  # a single value has room in proportion, not from -1 to 1
        plot.y_range.default_span = values.max() / divisor


def spans_decades(y: str, values: "pd.Series[float]") -> bool:
    """Whether a learning rate is best read on a logarithmic axis."""
    return bool(y == "lr" and values.min() > 0 and values.max() > 30 * values.min())


def sizes_figure(x: str, ends: Sequence[int], sizes: Sequence[dict[int, float]]) -> Any:
    """Stacked bars: the share of the images that was trained at each size.

    Args:
        x: what `ends` are, `epoch` or `step`.
        ends: the last one of each bar, which begins behind the bar before; the first begins at 1.
        sizes: of each bar, the share of each image size in pixels.
    """
    found = sorted({size for bar in sizes for size in bar})
    colors = interp_palette(_SIZE_COLORS, len(found)) if len(found) > 1 else (COLORS[0],) * len(found)
    names = [f"{size} px" for size in found]
    columns: dict[str, Any] = {
        name: [100 * at.get(size, 0.0) for at in sizes] for name, size in zip(names, found, strict=True)
    }
    last = np.asarray(ends, dtype=float)
    first = np.concatenate([[min(1.0, last[0])], last[:-1] + 1])
    # Many bars touch and are drawn with an outline, or the seams between them would show as stripes.
    few = len(last) <= _MARKED
    columns |= {x: (first + last) / 2, "first": first, "last": last, "wide": (last - first + 1) * (0.9 if few else 1.0)}
    source = ColumnDataSource(columns)
    plot = empty_figure(x, "share of images (%)", x_range=(first[0] - 1, last[-1] + 1), y_range=(0, 100))
    line = 0 if few else 1
    bars = plot.vbar_stack(names, x=x, width="wide", color=list(colors), source=source, line_width=line)
    add_legend(plot, {name: [bar] for name, bar in zip(names, bars, strict=True)})
    where = "@last" if (first == last).all() else "@first to @last"
    plot.add_tools(HoverTool(tooltips=[(x, where), ("size", "$name"), ("share", "@$name{0.0}%")]))
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    plot.xgrid.visible = False
    return plot


def object_size_figure(evaluation: pd.DataFrame) -> dict[str, Any]:
    """Each metric that is told by object size, against image size: title -> figure; none where there is none."""
    figures = {}
    for stem in _told_by_object_size(evaluation):
        lines = []
        for objects, color in zip(OBJECT_SIZES, COLORS, strict=False):
            values = by_size(evaluation, f"{stem}_{objects}")
            sizes = pd.Series(values.index, index=values.index)
            lines += [Line(objects, sizes, values[how], color, how == AS_TRAINED, str(how)) for how in values.columns]
        if lines:
            ticks = sorted(int(size) for size in evaluation["size"].unique())
            title = f"{label(stem)} by image size and object size"
            figures[title] = line_figure(lines, "size", stem, ticks=ticks if len(ticks) <= TICKS else ())
    return figures


def object_size_curves(metrics: pd.DataFrame) -> dict[str, Any]:
    """Each validation metric that is told by object size, over the epochs: title -> figure."""
    figures = {}
    for stem in _told_by_object_size(metrics):
        lines = [
            Line(size, metrics["epoch"], metrics[column], color)
            for size, color in zip(OBJECT_SIZES, COLORS, strict=False)
            if (column := f"{stem}_{size}") in metrics and metrics[column].notna().any()
        ]
        if lines:
            figures[f"{label(stem)} by object size"] = line_figure(lines, "epoch", stem)
    return figures


def _told_by_object_size(frame: pd.DataFrame) -> list[str]:
    """The metrics that are told by object size: of a column `map_small` it is `map`."""
    smallest = f"_{OBJECT_SIZES[0]}"
    return [str(column).removesuffix(smallest) for column in frame if str(column).endswith(smallest)]


def size_figures(evaluation: pd.DataFrame, metric: str) -> dict[str, Any]:
    """The metric of an evaluation against image size, FLOPs and time, where known: title -> figure."""
    figures = {}
    values = by_size(evaluation, metric)
    sizes = [int(size) for size in values.index]
    for x, what in _COSTS:
        if x in evaluation and sizes:
            where = evaluation.groupby("size")[x].first().loc[values.index]
            lines = [Line(str(how), where, values[how], COLORS[0], how == AS_TRAINED) for how in values.columns]
            ticks = sizes if x == "size" and len(sizes) <= TICKS else ()
            figures[f"{label(metric)} by {what}"] = line_figure(lines, x, metric, ticks=ticks)
    return figures


def _readable_rates(plot: Any, rates: "pd.Series[float]") -> None:
    """Ticks of a learning rate as it is written in a recipe: 0.1, 0.05, 0.002, 1e-05."""
    plot.yaxis.formatter = PrintfTickFormatter(format="%.6g")
    if spans_decades("lr", rates):
        low, high = (math.floor(math.log10(value)) for value in (rates.min(), rates.max()))
        each = (1, 2, 5) if high - low <= _FEW_DECADES else (1,)
        ticks = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in each]
        plot.yaxis.ticker = FixedTicker(ticks=ticks)


def _points(line: Line) -> pd.DataFrame:
    points = pd.DataFrame({"x": line.x.to_numpy(dtype=float), "y": line.y.to_numpy(dtype=float)})
    return points.replace(np.inf, np.nan).dropna()


def empty_figure(x_label: str, y_label: str, **options: Any) -> Any:
    """A figure in the style of all reports, with nothing drawn yet; `options` are bokeh's."""
    options = {"height": 290, "sizing_mode": "stretch_width", "active_drag": "box_zoom", **options}
    plot = figure(tools="box_zoom,pan,reset,save", **options)
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.outline_line_color = None
    plot.grid.grid_line_color = "#e6e9ed"
    for axis, text in ((plot.xaxis, x_label), (plot.yaxis, y_label)):
        axis.axis_label = text
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = _FONT
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_line_color = axis.major_tick_line_color = "#b8bfc8"
        axis.minor_tick_line_color = None
        if isinstance(axis[0], LinearAxis):
            axis.formatter = NumeralTickFormatter(format="0,0.[0000]")
    return plot


def add_legend(plot: Any, items: dict[str, list[Any]], width: int = 72) -> None:
    """A legend above the plot, where it covers no line, in as many columns as fit `width` letters: half a page."""
    columns = max(1, min(len(items), width // (max(map(len, items), default=1) + 6)))
    rows = -(-len(items) // columns)
    legend = Legend(
        items=list(items.items()),
        click_policy="hide",
        orientation="horizontal",
        ncols=columns,
        label_text_font=_FONT,
        label_text_font_size="12px",
        label_text_color=_INK,
        border_line_color=None,
        glyph_height=14,
        label_height=22,  # keeps the legend off the plot
        location="top_left",
        margin=0,
        padding=0,
        spacing=12 if rows == 1 else 3,
    )
    plot.height += 26 * rows
    plot.add_layout(legend, "above")
