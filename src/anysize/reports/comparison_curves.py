"""The curves of a comparison: over training, and by image size; runs that differ in their seed alone as one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from anysize.registry import UserError, did_you_mean, some_of
from anysize.reports.columns import HOW_VALIDATED, SPLITS, has_own_figure, label, metrics_of
from anysize.reports.figures import TICKS
from anysize.reports.grouping import Curve, Group
from anysize.reports.overlay_controls import choice_of_axis
from anysize.reports.overlays import AXES, Entry, Overlaid, Overlay, is_many
from anysize.reports.page import card, cards, plots, section, table
from anysize.reports.tables import AS_TRAINED, CALIBRATED
from anysize.reports.text_table import TextTable

_BANDS = "band: lowest to highest of the runs"


def training_section(
    groups: Sequence[Group], entries: Sequence[Entry], places: Sequence[int], columns: Sequence[str], x: str
) -> Markup | str:
    """The curves over training.

    Args:
        groups: what is drawn; `places` are those of their entries in the legend.
        columns: a figure each, as `write_comparison` takes them; empty: each metric.
        x: the axis that is shown first.

    Raises:
        UserError: an unknown column.
    """
    curves = [group.curve for group in groups]
    known = list(dict.fromkeys(str(column) for curve in curves for column in curve.mean.columns))
    axes = _axes(curves, known, x)
    known = [column for column in known if column not in HOW_VALIDATED]
    metrics = metrics_of(known)
    shown = [metric for metric in metrics if has_own_figure(metric)]
    for column in columns:
        if column not in known and column not in metrics:
            raise UserError(f"unknown column {column!r}: {did_you_mean(column, [*known, *metrics])}")
    if not axes:
        return ""
    overlay, drawn = Overlay(entries, axes), []
    for column in _apart(columns or shown, known, is_many(len(entries))):
        of_split = [column] if column in known else [f"{split}_{column}" for split in SPLITS]
        kinds: dict[str, list[Overlaid]] = {}
        without = []
        for group, curve, place in zip(groups, curves, places, strict=True):
            there = next(iter(axes)) in curve.mean
            found = [name for name in of_split if there and name in curve.mean and curve.mean[name].notna().any()]
            for name in found:
                kinds.setdefault(name.partition("_")[0], []).append(_overlaid(group, curve, place, name, axes))
            without += [] if found else [group.name]
        if not kinds:
            continue
        kinds = {label(name): kinds[name] for name in sorted(kinds)}
        notes = ["dashed: training, solid: validation"] if len(kinds) == 2 else []
        notes += [_BANDS] if any(group.several for group in groups) else []
        notes += [f"not recorded: {some_of(without)}"] if without else []
        drawn.append((label(column), overlay.draw(column, kinds), "; ".join(notes)))
    return section("Training", choice_of_axis(overlay), cards(*plots(drawn))) if drawn else ""


def evaluation_section(
    by_size: Sequence[tuple[str, Sequence[Group], TextTable]], entries: Sequence[Entry], places: Mapping[Group, int]
) -> Markup | str:
    """Accuracy by image size and by FLOPs: curves, and a table; those of different tasks do not compare.

    Args:
        by_size: of each metric the groups that are judged by it, and their table.
        entries: the legend; `places` are those of the groups' entries in it.
    """
    parts: list[Markup | str] = []
    for number, (metric, members, compared) in enumerate(by_size):
        overlay, drawn = _by_size(metric, [(group, places[group]) for group in members], entries, f"size{number}")
        parts += [choice_of_axis(overlay), cards(*plots(drawn))]
        parts.append(card(compared.title, table(compared), compared.caption, tall=len(compared.rows) > 2 * TICKS))
    return section("Evaluation by image size", *parts) if parts else ""


def _by_size(
    metric: str, members: Sequence[tuple[Group, int]], entries: Sequence[Entry], name: str
) -> tuple[Overlay, list[tuple[str, Any, str]]]:
    found: dict[str, list[Overlaid]] = {}
    every, axes = set(), {"size": 0.0, "flops": 0.0}
    for group, place in members:
        curve = group.by_size
        for calibrated, how in ((False, AS_TRAINED), (True, CALIBRATED)):
            chosen = curve.mean.index.get_level_values("calibrated") == calibrated
            at = Curve(*(frame[chosen] for frame in (curve.mean, curve.lowest, curve.highest)))
            if metric not in at.mean or not at.mean[metric].notna().any():
                continue
            axes = {axis: max(most, at.mean[axis].max()) for axis, most in axes.items() if axis in at.mean}
            every |= set(at.mean["size"].astype(int))
            found.setdefault(how, []).append(_overlaid(group, at, place, metric, {"size": 0.0, "flops": 0.0}))
    overlay = Overlay(entries, axes, name)
    ticks = sorted(every) if len(every) <= TICKS else ()
    bands = [_BANDS] if any(group.several for group, _ in members) else []
    if is_many(len(entries)):
        return overlay, [
            (f"{label(metric)} by image size, {how}", overlay.draw(metric, {how: lines}, ticks=ticks), "; ".join(bands))
            for how, lines in found.items()
        ]
    notes = ["dashed: as trained, solid: calibrated"] * (len(found) > 1)
    figure = overlay.draw(metric, found, ticks=ticks)
    return overlay, [(f"{label(metric)} by image size", figure, "; ".join([*notes, *bands]))]


def _apart(columns: Sequence[str], known: Sequence[str], many: bool) -> list[str]:
    """The figures' columns: with many runs, validation and training of a metric have one each."""
    if not many:
        return list(columns)
    split = [
        [name for split in reversed(SPLITS) if (name := f"{split}_{column}") in known]
        if column not in known
        else [column]
        for column in columns
    ]
    return [name for names in split for name in names]


def _axes(curves: Sequence[Curve], known: Sequence[str], x: str) -> dict[str, float]:
    """The largest value on each axis, x first."""
    axes = sorted((axis for axis in AXES if axis in known), key=lambda axis: axis != x)
    frames = [curve.mean for curve in curves]
    return {axis: max(float(frame[axis].max()) for frame in frames if axis in frame) for axis in axes}


def _overlaid(group: Group, curve: Curve, place: int, column: str, axes: Mapping[str, float]) -> Overlaid:
    name = f"{group.name} ({group.seeds})" if group.several else group.name
    nowhere = np.full(len(curve.mean), np.nan)
    at = {axis: _numbers(curve.mean[axis]) if axis in curve.mean else nowhere for axis in axes}
    values = (_numbers(frame[column]) for frame in (curve.mean, curve.lowest, curve.highest))
    return Overlaid(place, name, at, *values)


def _numbers(values: "pd.Series[Any]") -> np.ndarray:
    return values.to_numpy(dtype=float)
