"""Curves of many runs over one another: figures that share a legend and a horizontal axis, which the reader switches.

The figures of an `Overlay` share their data, so that a hundred runs of hundreds of epochs stay a few
megabytes, and what is shown is chosen at one place for all (`overlay_controls`).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, HoverTool

from anysize.reports.columns import is_fraction, label, unit_of
from anysize.reports.figures import COLORS, empty_figure, evenly, line_colors, spans_decades, suit_axes

AXES = ("epoch", "step", "images", "flops", "seconds")
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (9, 3, 2, 3))
"""Tell apart what colours alone do not: lines of more runs than there are colours."""

_MOST_POINTS = 120_000  # of all curves that share a legend: more are thinned, to a page of some megabytes
_FEWEST = 200  # points of a curve that are kept in any case
_FADED = 24  # more lines than that let one another show through
_MARKED = 25  # curves of at most so many values show them
_TIP = "<div><b>{name}</b>: {value} at $snap_x{{0,0.[00]}}</div>"
_TOLD = 5  # lines under the pointer are named at most
_BAND = 0.18  # opacity of the band of several runs


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the legend, which stands for one run or several."""

    name: str
    color: str
    dash: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Overlaid:
    """One curve: where it is on each axis, and its mean, lowest and highest value there, in the units of the files.

    `entry` is the place of its entry in the legend; `name` is what the pointer is told. All arrays are (N,).
    """

    entry: int
    name: str
    at: Mapping[str, np.ndarray]
    mean: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    def where(self, chosen: np.ndarray) -> "Overlaid":
        """The curve at some of its places alone."""
        at = {axis: values[chosen] for axis, values in self.at.items()}
        return dataclasses.replace(
            self, at=at, mean=self.mean[chosen], lowest=self.lowest[chosen], highest=self.highest[chosen]
        )


def legend_entries(names: Sequence[str], colors: Sequence[str] | None = None) -> list[Entry]:
    """An entry a name: by colour alone where there are few, by colour and dashes where there are many.

    >>> entries = legend_entries([f"run {i}" for i in range(40)])
    >>> len({(entry.color, entry.dash) for entry in entries})
    40
    """
    many = is_many(len(names))
    chosen = colors or line_colors(len(names))
    dashes = itertools.cycle(DASHES if many and not colors else DASHES[:1])
    return [Entry(name, color, dash) for name, color, dash in zip(names, chosen, dashes, strict=False)]


def axis_name(axis: str) -> str:
    """What a choice of the horizontal axis calls a column.

    >>> axis_name("seconds"), axis_name("flops")
    ('time', 'FLOPs')
    """
    return "time" if axis == "seconds" else label(axis)


def is_many(entries: int) -> bool:
    """True where there are more runs than colours, so that each figure draws one line a run."""
    return entries > len(COLORS)


class Overlay:
    """Figures of one legend.

    Args:
        entries: the legend.
        axes: the largest value on each axis, by the axis' column, in the order of the choice; the first is shown.
        name: tells the figures of overlays on one page apart.
    """

    def __init__(self, entries: Sequence[Entry], axes: Mapping[str, float], name: str = "training") -> None:
        self.name = name
        self.entries = list(entries)
        self.axes = {axis: unit_of(axis, largest) for axis, largest in axes.items()}
        self._sources: dict[tuple[Any, ...], ColumnDataSource] = {}
        self._filters: dict[ColumnDataSource, CDSView] = {}

    def draw(self, y: str, kinds: Mapping[str, Sequence[Overlaid]], *, ticks: Sequence[int] = ()) -> Any:
        """A figure of column `y`. Of two `kinds` of curves, such as training and validation, the first is dashed."""
        drawn = {kind: [thinner(line, len(self.entries)) for line in lines] for kind, lines in kinds.items() if lines}
        every = pd.Series(
            np.concatenate([each for lines in drawn.values() for line in lines for each in (line.lowest, line.highest)])
        )
        divisor, y_label = unit_of(y, float(every.max()))
        axis, (_, x_label) = next(iter(self.axes.items()))
        plot = empty_figure(x_label, y_label, y_axis_type="log" if spans_decades(y, every) else "linear")
        plot.tags = ["overlay", self.name]
        for place, (kind, lines) in enumerate(drawn.items()):
            column = f"{kind} {y}"
            banded = [line for line in lines if (line.highest > line.lowest).any()]
            if banded:
                self._band(plot, banded, column, divisor)
            dash: Any = "dashed" if len(drawn) > 1 and place == 0 else "dash"
            self._lines(plot, lines, column, divisor, dash, y, kind if len(drawn) > 1 else "")
        suit_axes(plot, axis, y, every, divisor, ticks)
        return plot

    def _lines(
        self, plot: Any, lines: Sequence[Overlaid], column: str, divisor: float, dash: Any, y: str, kind: str
    ) -> None:
        source = self._source(lines, "line", lambda line: line.at)
        source.data[column] = [_small(line.mean / divisor) for line in lines]
        thin = len(self.entries) > _FADED
        drawn = plot.multi_line(
            "xs", column, name=kind, source=source, view=self._filters[source], line_color="color", line_dash=dash,
            line_alpha="alpha", line_width=1.3 if thin else 2,
            hover_line_color="color", hover_line_alpha=1.0, hover_line_width=3.5,
        )  # fmt: skip
        longest = max(len(line.mean) for line in lines)
        if longest == 1 or (longest <= _MARKED and not is_many(len(self.entries))):
            self._marks(plot, lines, column, divisor, hollow=dash == "dashed")
        value = "$snap_y{0.00}%" if is_fraction(y) else "$snap_y{%.4g}" if y == "lr" else "$snap_y{0,0.000}"
        tip = _TIP.format(name=f"@name {kind}".strip(), value=value)
        written = {"$snap_y": "printf"} if y == "lr" else {}
        plot.add_tools(
            HoverTool(
                renderers=[drawn], tooltips=tip, formatters=written, line_policy="nearest", limit=_TOLD, visible=False
            )
        )

    def _marks(
        self, plot: Any, lines: Sequence[Overlaid], column: str, divisor: float, *, hollow: bool = False
    ) -> None:
        """Points at the values of few and short curves; a curve of one value is nothing else."""
        counts = [len(line.mean) for line in lines]
        repeated = [line for line, count in zip(lines, counts, strict=True) for _ in range(count)]
        source = self._new_source(repeated, "mark")
        for axis, (unit, _) in self.axes.items():
            source.data[f"x {axis}"] = np.concatenate([line.at[axis] / unit for line in lines])
        source.data["xs"] = source.data[f"x {next(iter(self.axes))}"]
        source.data[column] = np.concatenate([line.mean / divisor for line in lines])
        plot.scatter(
            "xs", column, source=source, view=self._filters[source], size=6, marker="circle", line_color="color",
            fill_color="white" if hollow else "color", line_alpha="alpha", fill_alpha="alpha",
        )  # fmt: skip

    def _band(self, plot: Any, lines: Sequence[Overlaid], column: str, divisor: float) -> None:
        """From the lowest to the highest value of several runs."""
        source = self._source(lines, "band", lambda line: {axis: _there_and_back(x, x) for axis, x in line.at.items()})
        source.data[column] = [_small(_there_and_back(line.lowest, line.highest) / divisor) for line in lines]
        plot.patches(
            "xs", column, source=source, view=self._filters[source], fill_color="color", fill_alpha="alpha",
            line_color=None,
        )  # fmt: skip

    def _source(self, lines: Sequence[Overlaid], kind: str, at: Any) -> ColumnDataSource:
        """The data of lines that are at the same places: figures of several columns share them."""
        first = next(iter(self.axes))
        key = (kind, *((line.entry, line.name, line.at[first].tobytes()) for line in lines))
        if key not in self._sources:
            source = self._sources[key] = self._new_source(lines, kind)
            for axis, (unit, _) in self.axes.items():
                source.data[f"x {axis}"] = [_small(at(line)[axis] / unit) for line in lines]
            source.data["xs"] = source.data[f"x {first}"]
        return self._sources[key]

    def _new_source(self, lines: Sequence[Overlaid], kind: str) -> ColumnDataSource:
        shown = [self.entries[line.entry] for line in lines]
        alpha = _BAND if kind == "band" else 0.5 if len(self.entries) > _FADED else 0.9
        data = {
            "entry": [line.entry for line in lines],
            "name": [line.name for line in lines],
            "color": [entry.color for entry in shown],
            "dash": [list(entry.dash) for entry in shown],
            "alpha": [alpha] * len(lines),
            "usual": [alpha] * len(lines),
        }
        source = ColumnDataSource(data, tags=["overlay", self.name])
        self._filters[source] = CDSView(filter=BooleanFilter(booleans=[True] * len(lines)))
        return source


def thinner(line: Overlaid, entries: int) -> Overlaid:
    """A curve without the values that are missing, at fewer places where many runs have long ones."""
    line = line.where(np.isfinite(line.mean) & np.isfinite(next(iter(line.at.values()))))
    most = max(_FEWEST, _MOST_POINTS // max(1, entries))
    if len(line.mean) <= most:
        return line
    return line.where(evenly(len(line.mean), most))


def _there_and_back(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """The outline of a band."""
    return np.concatenate([there, back[::-1]])


def _small(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
