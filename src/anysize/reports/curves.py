"""The curves of one run's training, by epoch and by step."""

import pandas as pd
from markupsafe import Markup

from anysize.reports import figures
from anysize.reports.columns import HOW_VALIDATED, SPLITS, error_of, has_own_figure, label, metrics_of
from anysize.reports.figures import COLORS, Line, line_figure
from anysize.reports.page import plot
from anysize.reports.reading import Run, shares_of, thinned

_LAST = ("gradient_norm",)  # is watched, and says nothing of how good a model is
_OF_ALL = ("lr", "images_per_second", "waiting")
_BARS = 200  # of the sizes by step: more are thinner than a line
_WHERE = ("step", "epoch", "images", "flops", "seconds", "sizes")


def epoch_curves(run: Run) -> list[Markup]:
    """A card with a figure for each metric of `metrics.csv`, then for what else it says of the epochs."""
    frame, curves = run.metrics, []
    metrics = [metric for metric in metrics_of(frame.columns) if has_own_figure(metric)]
    for metric in sorted(metrics, key=lambda metric: metric in _LAST):
        splits = [split for split in SPLITS if _has_values(frame, f"{split}_{metric}")]
        lines = [
            Line(
                label(split) if len(splits) > 1 or split != SPLITS[0] else "",
                frame["epoch"],
                frame[f"{split}_{metric}"],
                COLORS[0],
                dashed=split == SPLITS[0] and len(splits) > 1,
            )
            for split in splits
        ]
        if lines:
            curves.append(plot(label(metric), line_figure(lines, "epoch", metric)))
    drawn = len(curves)
    curves += [plot(title, figure) for title, figure in figures.object_size_curves(frame).items()]
    for column in _OF_ALL:
        if _has_values(frame, column):
            curves.append(_single(frame, "epoch", column))
    if run.sizes:
        curves.insert(drawn, plot("image sizes", figures.sizes_figure("epoch", frame["epoch"].to_list(), run.sizes)))
    return curves


def step_curves(steps: pd.DataFrame) -> list[Markup]:
    """A card with a figure for each column of `steps.csv`; none where it has less than two rows."""
    if len(steps) < 2:
        return []
    frame = thinned(steps)
    metrics = [column for column in frame.columns if column not in (*_WHERE, *_OF_ALL, *HOW_VALIDATED)]
    for metric in metrics:
        if error := error_of(metric):
            frame = frame.assign(**{error: 1 - frame[metric]})
    names = [error_of(metric) or metric for metric in metrics]
    order = sorted(names, key=lambda name: (name in _LAST, name != "loss"))
    curves = [_single(frame, "step", column) for column in order if _has_values(frame, column)]
    bars = thinned(steps, _BARS)
    if len(shares := shares_of(bars)):
        curves.append(plot("image sizes", figures.sizes_figure("step", bars["step"].to_list(), shares)))
    return curves + [_single(frame, "step", column) for column in _OF_ALL if _has_values(frame, column)]


def _has_values(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and pd.api.types.is_numeric_dtype(frame[column]) and bool(frame[column].notna().any())


def _single(frame: pd.DataFrame, x: str, column: str) -> Markup:
    return plot(label(column), line_figure([Line("", frame[x], frame[column], COLORS[0])], x, column))
