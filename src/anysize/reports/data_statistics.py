"""The figures of a data set: tables for the console, rows for a CSV file, and their part of a page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool
from markupsafe import Markup

from anysize.data.statistics import DatasetStatistics, SplitStatistics
from anysize.registry import counted
from anysize.reports.axis_names import on_an_axis
from anysize.reports.figures import COLORS, add_legend, empty_figure
from anysize.reports.page import Template, card, cards, plot, section, style, table
from anysize.reports.text_table import TextTable

_BARS = 24  # classes that have a bar with their name each; more are drawn by rank
_BINS = 40


def split_table(found: DatasetStatistics) -> TextTable:
    """A row a split: images, classes, sizes, aspect ratios."""
    rows = []
    for split in found.splits:
        present = int((split.counts > 0).sum())
        rows.append(
            [
                split.split,
                f"{split.images:,}",
                f"{present:,}",
                *(_spread(sides) for sides in (split.widths, split.heights)),
                _spread(split.ratios, "{:.2f}"),
            ]
        )
    header = ["split", "images", "classes", "width (px)", "height (px)", "width / height"]
    return TextTable(header, rows, caption="smallest, median and largest")


def class_table(found: DatasetStatistics, edges: int = 0) -> TextTable:
    """A row a class: images of each split, and pixels where targets are masks.

    With `edges` the classes with the most and the fewest training images alone, so many of each.
    """
    train = found.splits[0]
    order = np.argsort(-train.counts, kind="stable").tolist() if edges else range(len(found.classes))
    chosen, caption = list(order), ""
    if edges and len(chosen) > 2 * edges + 1:
        caption = (
            f"the {edges} classes with the most training images, and the {edges} with the fewest, of {len(chosen):,}"
        )
        chosen = [*chosen[:edges], *chosen[-edges:]]
    header, columns = ["class"], []
    for split in found.splits:
        header.append(f"{split.split} images")
        columns.append([f"{count:,}" for count in split.counts.tolist()])
        if split.pixels is not None:
            header.append(f"{split.split} pixels")
            columns.append([f"{share:.2%}" for share in (split.pixels / max(1, split.pixels.sum())).tolist()])
    rows = [[found.classes[i], *(column[i] for column in columns)] for i in chosen]
    return TextTable(header, rows, caption=caption)


def statistics_lines(found: DatasetStatistics) -> list[str]:
    """What tables do not hold, a sentence a line: the colours and their settings, what is odd."""
    channels = found.channels
    mean, std = (",".join(f"{value:.4f}" for value in each) for each in (channels.mean, channels.std))
    usual = " and ".join(
        f"{name} {', '.join(f'{value:.4g}' for value in each)}"
        for name, each in (("mean", found.usual_mean), ("deviation", found.usual_std))
    )
    lines = [
        f"colours of {counted(channels.images, 'training image')} at {channels.size} px: --data.mean {mean} --data.std "
        f"{std}",
        f"without these settings a training takes {usual}, or those of the weights that it starts from",
    ]
    for split in found.splits:
        if split.looked_at < split.images:
            lines.append(f"{split.split}: {split.looked_at:,} of {counted(split.images, 'image')} were looked at")
        if not found.one_class and len(split.classes_an_image):
            of = split.classes_an_image
            lines.append(f"{split.split}: {of.min()} to {of.max()} classes an image, {of.mean():.1f} on average")
        if not _alike(split):
            for what, named in (("smallest", split.smallest), ("largest", split.largest)):
                images = ", ".join(f"{name} ({width} x {height})" for name, height, width in named)
                lines.append(f"{split.split}: the {what}: {images}")
        if split.bad:
            name, reason = next(iter(split.bad.items()))
            lines.append(
                f"warning: {split.split}: {counted(len(split.bad), 'image')} cannot be used, such as {name}: {reason}; "
                "`anysize data check` names all"
            )
        if found.one_class and (least := int(split.counts.min())) * 10 < (most := int(split.counts.max())):
            lines.append(f"{split.split}: the largest class has {most:,} images, the smallest {least:,}")
    return lines


def statistics_rows(found: DatasetStatistics) -> list[dict[str, Any]]:
    """Every figure as a row: split, what it is, of which class or channel, value."""
    rows: list[dict[str, Any]] = []

    def add(split: str, what: str, values: Mapping[str, Any]) -> None:
        rows.extend({"split": split, "what": what, "of": of, "value": value} for of, value in values.items())

    for split in found.splits:
        add(split.split, "images", {"": split.images})
        add(split.split, "images looked at", {"": split.looked_at})
        add(split.split, "images of the class", dict(zip(found.classes, split.counts.tolist(), strict=True)))
        if split.pixels is not None:
            add(split.split, "pixels of the class", dict(zip(found.classes, split.pixels.tolist(), strict=True)))
        for what, values in (("width", split.widths), ("height", split.heights), ("width / height", split.ratios)):
            if len(values):
                quantiles = np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist()
                add(split.split, what, dict(zip(("0%", "5%", "50%", "95%", "100%"), quantiles, strict=True)))
    for what, each in (("mean", found.channels.mean), ("std", found.channels.std)):
        add("train", f"{what} at {found.channels.size} px", {str(i): value for i, value in enumerate(each)})
    return rows


_STYLE = style("""
.facts { margin: 0; padding-left: 18px; overflow-wrap: anywhere; }
""")
_LINES = Template('<ul class="facts">{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>')


def statistics_section(found: DatasetStatistics) -> Markup:
    """The part of a page: tables, and histograms of what is not alike in all images."""
    figures = [plot("images a class", _class_figure(found))]
    sides = {split.split: np.minimum(split.widths, split.heights) for split in found.splits}
    ratios = {split.split: split.ratios for split in found.splits}
    for title, values, label, pixels in (
        ("shorter sides", sides, "shorter side (px)", True),
        ("aspect ratios", ratios, "width / height", False),
    ):
        every = np.concatenate(list(values.values()))
        if len(every) and every.min() < every.max():
            figures.append(plot(title, _histogram(values, label, whole=pixels)))
    splits = split_table(found)
    of_splits = card("Splits", table(splits), splits.caption)
    lines = card("Colours and sizes", _LINES(lines=statistics_lines(found)))
    classes = card("Classes", table(class_table(found)), tall=True)
    return section("The data", _STYLE, of_splits, cards(*figures, classes), lines)


def _class_figure(found: DatasetStatistics) -> Any:
    """Bars by name where there are few classes; otherwise the images of each class, the largest first."""
    few, splits = len(found.classes) <= _BARS, found.splits
    figure = empty_figure("" if few else "class, the largest first", "images")
    places, drawn = np.arange(1, len(found.classes) + 1), {}
    for number, (split, color) in enumerate(zip(splits, COLORS, strict=False)):
        if few:
            width = 0.8 / len(splits)
            left = places - 0.4 + number * width
            bars = {"left": left.tolist(), "right": (left + width).tolist(), "top": split.counts.tolist()}
            source = ColumnDataSource({**bars, "class": list(found.classes)})
            drawn[split.split] = [figure.quad("left", "right", "top", 0, source=source, color=color)]
        else:
            drawn[split.split] = [figure.line(places, np.sort(split.counts)[::-1], color=color, line_width=2)]
    if few:  # by number: names may be alike
        figure.xaxis.ticker = FixedTicker(ticks=places.tolist())
        names = on_an_axis(found.classes)
        figure.xaxis.major_label_overrides = dict(zip(places.tolist(), names, strict=True))
        figure.xaxis.major_label_orientation = 0.9
        figure.xgrid.visible = False
        figure.height += 60
    figure.y_range.start = 0
    tips = [("class", "@class"), ("images", "@top{0,0}")] if few else [("place", "@x"), ("images", "@y{0,0}")]
    figure.add_tools(HoverTool(tooltips=tips))
    add_legend(figure, drawn)
    return figure


def _histogram(values: Mapping[str, np.ndarray], label: str, *, whole: bool = False) -> Any:
    """How often values occur, as a share of each split; on a logarithmic axis where they spread far."""
    every = np.concatenate(list(values.values()))
    low, high = float(every.min()), float(every.max())
    far = low > 0 and high > 8 * low
    edges = np.geomspace(low, high, _BINS + 1) if far else np.linspace(low, high, _BINS + 1)
    if whole and not far and high - low < _BINS:  # a bar a value
        edges = np.arange(low, high + 2) - 0.5
    edges[-1] += 1e-9 * abs(edges[-1])
    options = {"x_axis_type": "log"} if far else {}
    figure = empty_figure(label, "share of the split (%)", **options)
    drawn = {}
    for (split, each), color in zip(values.items(), COLORS, strict=False):
        counts, _ = np.histogram(each, edges)
        share = 100 * counts / max(1, len(each))
        bars = figure.quad(left=edges[:-1], right=edges[1:], bottom=0, top=share, color=color, alpha=0.5)
        drawn[split] = [bars]
    figure.y_range.start = 0
    figure.add_tools(HoverTool(tooltips=[("from", "@left{0,0.[00]}"), ("to", "@right{0,0.[00]}"), ("", "@top{0.0}%")]))
    add_legend(figure, drawn)
    return figure


def _alike(split: SplitStatistics) -> bool:
    """Whether all images have one size."""
    return len(split.widths) == 0 or bool(
        (split.widths == split.widths[0]).all() and (split.heights == split.heights[0]).all()
    )


def _spread(values: np.ndarray, form: str = "{:,.0f}") -> str:
    if not len(values):
        return "-"
    low, middle, high = (form.format(value) for value in (values.min(), np.median(values), values.max()))
    return low if low == high else f"{low}, {middle}, {high}"
