"""An elastic network's scale policy in a run folder, on the console and in the report: a file, tables and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from bokeh.models import ColorBar, ColumnDataSource, FixedTicker, HoverTool, LinearColorMapper, Range1d, Span
from bokeh.transform import transform

from anysize.reports import run_files
from anysize.reports.axis_names import on_an_axis
from anysize.reports.figures import COLORS, empty_figure
from anysize.reports.text_table import TextTable

_BESIDE = 4  # images at most whose blocks are listed side by side
_MOST_CLASSES = 24  # of the picture: of more, those that use half resolution least and most
# Orange over white to blue: more full, more half resolution.
_DIVERGING = ("#b35806", "#e08214", "#fdb863", "#fee0b6", "#f7f7f7", "#d1e5f0", "#92c5de", "#4393c3", "#2166ac")


def summarise(table: pd.DataFrame, classes: Sequence[str], size: int) -> pd.DataFrame:
    """Mean and deviation of `low_share` by block, over all images (label "") and over those of each class.

    `table` is as `scale_policy` returns it, `classes` are the names of its labels; `size` (pixels) is written beside.

    >>> table = pd.DataFrame({"image": [0, 1], "label": [0, 1], "block": "layer1.0", "low_share": [0.2, 0.4]})
    >>> summarise(table, ["cat", "dog"], 32)[["label", "images", "low_share"]].to_dict("list")
    {'label': ['', 'cat', 'dog'], 'images': [2, 1, 1], 'low_share': [0.30000000000000004, 0.2, 0.4]}
    """
    parts = [table.assign(label="")]
    if "label" in table:
        parts.append(table.assign(label=[classes[int(label)] for label in table["label"]]))
    every = pd.concat(parts, ignore_index=True)
    shares = every.groupby(["label", "block"], sort=False)["low_share"]
    summary = shares.agg(images="size", low_share="mean", low_share_sd=lambda values: values.std(ddof=0)).reset_index()
    return summary.assign(size=size)


def write_scale_policy(folder: Path, summary: pd.DataFrame) -> None:
    """Write `scale_policy.csv`, in place of an earlier one."""
    run_files.write_rows(folder / run_files.SCALE_POLICY, summary.to_dict("records"))


def summary_table(summary: pd.DataFrame) -> TextTable:
    """The part of each block's output that comes from half resolution, over all images; `summary` is by `summarise`."""
    rows = summary[summary["label"] == ""][["block", "low_share", "low_share_sd"]].to_numpy()
    header = ["block", "from half resolution", "deviation over images"]
    return TextTable(header, [[block, f"{mean:.1%}", f"{deviation:.1%}"] for block, mean, deviation in rows])


def images_table(table: pd.DataFrame) -> TextTable:
    """The part that comes from half resolution, image by image; `table` is as `scale_policy` returns it.

    A few images have a column each and the blocks a row; of many images each has a row, with the mean over blocks.
    Images are named by their files, or by their paths where two files have one name.
    """
    paths = table["image"].unique()
    names = {path: Path(path).name for path in paths}
    if len(set(names.values())) < len(names):
        names = dict(zip(paths, paths, strict=True))
    wide = table.pivot_table(index="block", columns="image", values="low_share", sort=False)
    if len(paths) > _BESIDE:  # the blocks of a deep network do not fit side by side
        rows = [[names[path], f"{mean:.1%}"] for path, mean in wide.mean().items()]
        return TextTable(["image", "from half resolution, mean over blocks"], rows)
    rows = [[block, *(f"{share:.1%}" for share in row)] for block, row in zip(wide.index, wide.to_numpy(), strict=True)]
    return TextTable(["block", *(names[path] for path in wide.columns)], rows)


def policy_figure(summary: pd.DataFrame) -> Any:
    """Draw the part of each block's output that comes from half resolution: mean and deviation over images."""
    data = summary[summary["label"] == ""]
    blocks, mean, deviation = data["block"].tolist(), data["low_share"], data["low_share_sd"]
    shown = {"mean": mean, "low": mean - deviation, "high": mean + deviation, "sd": deviation}
    source = ColumnDataSource({"block": blocks, **{name: 100 * values for name, values in shown.items()}})
    plot = empty_figure("block", "from half resolution (%)", x_range=blocks, height=330)
    plot.add_layout(Span(location=50, dimension="width", line_color="#8b95a1", line_dash="dotted"))
    plot.segment("block", "low", "block", "high", source=source, color=COLORS[0], line_width=7, line_alpha=0.28)
    marks = plot.scatter("block", "mean", source=source, color=COLORS[0], size=8)
    tips = [("block", "@block"), ("mean over images", "@mean{0.0}%"), ("deviation over images", "@sd{0.0}%")]
    plot.add_tools(HoverTool(renderers=[marks], tooltips=tips))
    plot.y_range = Range1d(0, 100)
    plot.y_range.bounds = (0, 100)
    _slanted(plot)
    return plot


def class_figure(summary: pd.DataFrame) -> Any | None:
    """Draw how much more or less half resolution each class uses than all images, by block; None: no classes."""
    every = summary[summary["label"] == ""].set_index("block")["low_share"]
    wide = summary[summary["label"] != ""].pivot(index="label", columns="block", values="low_share")
    if wide.empty:
        return None
    difference = 100 * (wide[every.index] - every)
    difference = difference.loc[difference.mean(axis=1).sort_values().index]
    if len(difference) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        difference = pd.concat([difference.iloc[:half], difference.iloc[-half:]])
    cells = difference.reset_index().melt(id_vars="label", var_name="block", value_name="difference")
    limit = float(cells["difference"].abs().max()) or 1.0
    mapper = LinearColorMapper(palette=list(_DIVERGING), low=-limit, high=limit)
    labels, blocks = difference.index.tolist(), difference.columns.tolist()
    short = dict(zip(labels, on_an_axis(labels), strict=True))
    plot = empty_figure("block", "", x_range=blocks, y_range=[*short.values()], height=190 + 20 * len(labels))
    places = {"place": cells["label"].map(short)}
    source = ColumnDataSource({str(name): values for name, values in cells.items()} | places)
    fill = transform("difference", mapper)
    cell = plot.rect("block", "place", 1, 1, source=source, fill_color=fill, line_color="white")
    tips = [("class", "@label"), ("block", "@block"), ("against all images", "@difference{+0.0} points")]
    plot.add_tools(HoverTool(renderers=[cell], tooltips=tips))
    ticks = [-limit, 0, limit]
    names = {-limit: f"{limit:.1f} more full", 0: "as all", limit: f"{limit:.1f} more half"}
    bar = {"border_line_color": None, "height": 10, "label_standoff": 4, "ticker": FixedTicker(ticks=ticks)}
    plot.add_layout(ColorBar(color_mapper=mapper, major_label_overrides=names, padding=24, **bar), "above")
    plot.grid.visible = False
    _slanted(plot)
    return plot


def _slanted(plot: Any) -> None:
    plot.xaxis.major_label_orientation = 0.9
    plot.xgrid.visible = False
