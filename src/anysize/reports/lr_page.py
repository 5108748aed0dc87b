"""The page of a learning-rate range test: the loss by learning rate, and the rate that it suggests."""

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, Span

from anysize.reports.columns import show
from anysize.reports.figures import COLORS, add_legend, empty_figure
from anysize.reports.page import page, plot, section, tiles

_ABOVE = 1.5  # times the first losses: what diverges leaves the figure at its top


def lr_figure(rows: Sequence[Mapping[str, Any]], suggestion: float | None) -> Any:
    """The loss, as measured and smoothed, by the logarithm of the learning rate; a line where the suggestion is.

    Args:
        rows: with `lr`, `loss`, `smoothed` and `size` of each step.
        suggestion: a learning rate; None: no line.
    """
    columns = {name: [row[name] for row in rows] for name in ("lr", "loss", "smoothed", "size")}
    source = ColumnDataSource({**columns, "shown": [show("lr", rate) for rate in columns["lr"]]})
    figure = empty_figure("learning rate", "training loss", x_axis_type="log", height=380)
    measured = figure.scatter("lr", "loss", source=source, color=COLORS[0], fill_color="white", size=6)
    smoothed = figure.line("lr", "smoothed", source=source, color=COLORS[0], line_width=2)
    add_legend(figure, {"a step": [measured], "smoothed": [smoothed]})
    tips = [
        ("learning rate", "@shown"),
        ("loss", "@loss{0.000}"),
        ("smoothed", "@smoothed{0.000}"),
        ("size", "@size px"),
    ]
    figure.add_tools(HoverTool(renderers=[measured], tooltips=tips))
    low, first = min(columns["loss"]), max(columns["loss"][:10])
    figure.y_range.start, figure.y_range.end = (
        low - 0.05 * abs(first),
        low + _ABOVE * max(first - low, 0.1 * abs(first)),
    )
    if suggestion is not None:
        figure.add_layout(Span(location=suggestion, dimension="height", line_color=COLORS[1], line_dash="dashed"))
    return figure


def lr_page(name: str, rows: Sequence[Mapping[str, Any]], suggestion: float | None, given: float, ended: str) -> str:
    """A whole page on the range test of a recipe.

    Args:
        name: of the recipe.
        rows, suggestion: as for `lr_figure`.
        given: the largest learning rate of the recipe.
        ended: a sentence on how the test ended.
    """
    lowest = min(rows, key=lambda row: row["smoothed"])["lr"]
    sizes = ", ".join(f"{size}" for size in sorted({row["size"] for row in rows}))
    numbers = [
        ("suggested rate", "-" if suggestion is None else show("lr", suggestion), "where the loss falls fastest"),
        ("highest useful rate", show("lr", lowest), "where the loss is lowest; more is too much"),
        ("rate in the recipe", show("lr", given), "the largest of optimizer.lr"),
        ("steps", f"{len(rows):,}", f"at {sizes} px"),
    ]
    note = f"{ended} The dashed line is the suggestion." if suggestion is not None else ended
    figure = plot("Loss by learning rate", lr_figure(rows, suggestion), note)
    return page(
        f"{name}: learning rates", "range test (Smith, arXiv 1506.01186)", [tiles(numbers), section("Loss", figure)]
    )
