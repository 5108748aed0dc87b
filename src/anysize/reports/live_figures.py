"""The figures of the live page: curves of runs that grow, thin for training and thick for validation."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, HoverTool

from anysize.reports.columns import split_of, unit_of
from anysize.reports.figures import COLORS, empty_figure, evenly, suit_axes
from anysize.reports.live import POINTS, Followed
from anysize.reports.overlays import DASHES


@dataclasses.dataclass(frozen=True)
class Look:
    """How the curves of a run are drawn."""

    color: str
    dash: tuple[int, ...]


LOOKS = tuple(Look(color, dash) for dash, color in itertools.product(DASHES, COLORS))


def looks(names: Sequence[str], before: Mapping[str, Look]) -> dict[str, Look]:
    """A look for each run: the one that it had, else the first that is free.

    >>> first = looks(["a", "b"], {})
    >>> looks(["c", "b"], first) == {"c": first["a"], "b": first["b"]}
    True
    """
    kept = {name: before[name] for name in names if name in before}
    free = (look for look in LOOKS if look not in kept.values())
    return {name: kept.get(name) or next(free, LOOKS[-1]) for name in names}


class LiveFigure:
    """A figure of one quantity: a column of `steps.csv` and `metrics.csv`, or "metric", what runs are judged by."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plot = empty_figure("epoch", "", name=name, height=270)
        suit_axes(self.plot, "", name, pd.Series(dtype=float))  # what is drawn, and over which axis, changes
        self._curves = [ColumnDataSource(_columns([])) for _ in range(2)]
        self._marks = ColumnDataSource({"x": [], "y": [], "color": [], "name": []})
        for source, width, alpha in zip(self._curves, (1.2, 2.2), (0.75, 1.0), strict=True):
            drawn = self.plot.multi_line(
                "xs", "ys", source=source, line_color="color", line_dash="dash", line_width=width, line_alpha=alpha,
                hover_line_color="color", hover_line_width=3.5, hover_line_alpha=1.0,
            )  # fmt: skip
            tip = "<div><b>@name</b>: $snap_y{0,0.[0000]} at $snap_x{0,0.[00]}</div>"
            self.plot.add_tools(
                HoverTool(renderers=[drawn], tooltips=tip, line_policy="nearest", limit=5, visible=False)
            )
        self.plot.scatter("x", "y", source=self._marks, color="color", size=5)

    def draw(self, runs: Sequence[Followed], axis: str, known: Mapping[str, Look]) -> None:
        """Draw runs over `axis`: "epoch", "step", "seconds" or "flops"."""
        column = self._column(runs)
        training: list[tuple[str, Look, pd.DataFrame]] = []
        validation: list[tuple[str, Look, pd.DataFrame]] = []
        for run in runs:
            for curves, split, table in self._tables(run, column):
                points = _points(table, axis, split)
                if len(points):
                    curves_of = training if curves == "training" else validation
                    curves_of.append((run.name, known[run.name], points))
        every = [points for _, _, points in (*training, *validation)]
        x_divisor, x_label = unit_of(axis, max((points["x"].max() for points in every), default=0.0))
        y_divisor, y_label = unit_of(column, max((points["y"].max() for points in every), default=0.0))
        self.plot.xaxis.axis_label, self.plot.yaxis.axis_label = x_label, y_label
        for source, curves_of in zip(self._curves, (training, validation), strict=True):
            source.data = _columns(
                [(name, look, points["x"] / x_divisor, points["y"] / y_divisor) for name, look, points in curves_of]
            )
        marked = [(name, look, points) for name, look, points in validation if len(points) <= POINTS // 10]
        marked += [each for each in training if len(each[2]) == 1]
        self._marks.data = {
            "x": _joined([points["x"] / x_divisor for _, _, points in marked]),
            "y": _joined([points["y"] / y_divisor for _, _, points in marked]),
            "color": [look.color for _, look, points in marked for _ in range(len(points))],
            "name": [name for name, _, points in marked for _ in range(len(points))],
        }

    def _column(self, runs: Sequence[Followed]) -> str:
        if self.name != "metric":
            return self.name
        judged = [run.run.main_metric for run in runs if run.run and len(run.run.metrics)]
        return split_of(judged[0])[1] if judged else "top1"

    def _tables(self, run: Followed, column: str) -> list[tuple[str, str, pd.DataFrame]]:
        """What holds the column: training or validation, its name there, and the table."""
        assert run.run
        metrics = run.run.metrics
        found = []
        if column in run.curve:
            found.append(("training", column, run.curve))
        elif name := next((name for name in (f"train_{column}", column) if name in metrics), ""):
            found.append(("training", name, metrics))
        if f"validation_{column}" in metrics:
            found.append(("validation", f"validation_{column}", metrics))
        return found


def _points(table: pd.DataFrame, axis: str, column: str) -> pd.DataFrame:
    if axis not in table:
        return pd.DataFrame(columns=["x", "y"])
    points = pd.DataFrame({"x": table[axis].to_numpy(dtype=float), "y": table[column].to_numpy(dtype=float)}).dropna()
    return points.iloc[evenly(len(points), POINTS)]


def _columns(curves: Sequence[tuple[str, Look, "pd.Series[float]", "pd.Series[float]"]]) -> dict[str, list[Any]]:
    return {
        "name": [name for name, _, _, _ in curves],
        "color": [look.color for _, look, _, _ in curves],
        "dash": [list(look.dash) for _, look, _, _ in curves],
        "xs": [x.to_numpy(dtype=np.float32) for _, _, x, _ in curves],
        "ys": [y.to_numpy(dtype=np.float32) for _, _, _, y in curves],
    }


def _joined(values: Sequence["pd.Series[float]"]) -> np.ndarray:
    return np.concatenate([each.to_numpy(dtype=float) for each in values]) if values else np.zeros(0)
