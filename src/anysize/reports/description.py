"""A bokeh figure in a sentence, for readers who do not see it."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from bokeh.models import FactorRange, GlyphRenderer, Line, MultiLine

_NAMED = 12  # lines at most that the sentence tells of


def describe(figure: Any) -> str:
    """What the axes are, and of each line where it begins and ends.

    >>> from bokeh.plotting import figure
    >>> drawn = figure(x_axis_label="epoch", y_axis_label="loss")
    >>> _ = drawn.line([1, 2, 3], [2.5, 1.25, 1.0], name="training")
    >>> describe(drawn)
    'loss by epoch; training: 2.5 at 1, 1 at 3'
    """
    axes = [next((axis.axis_label for axis in side if axis.axis_label), "") for side in (figure.yaxis, figure.xaxis)]
    parts = [" by ".join(str(label) for label in axes if label)]
    lines = [said for drawn in figure.renderers for said in _lines(drawn)]
    if lines:
        parts += lines[:_NAMED] + ([f"and {len(lines) - _NAMED} more lines"] if len(lines) > _NAMED else [])
    elif isinstance(figure.x_range, FactorRange):
        parts.append(_some(map(str, figure.x_range.factors)))
    return "; ".join(part for part in parts if part)


def _lines(drawn: Any) -> list[str]:
    if not isinstance(drawn, GlyphRenderer) or not isinstance(drawn.glyph, Line | MultiLine):
        return []
    data = drawn.data_source.data
    if isinstance(drawn.glyph, Line):
        return _line(drawn.name or "", data[drawn.glyph.x], data[drawn.glyph.y])
    names = [f"{name} {drawn.name or ''}".strip() for name in data["name"]]
    curves = zip(names, data[drawn.glyph.xs], data[drawn.glyph.ys], strict=True)
    return [said for name, x, y in curves for said in _line(name, x, y)]


def _line(name: str, x: Any, y: Any) -> list[str]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not len(x):
        return []
    ends = [f"{_number(y[i])} at {_number(x[i])}" for i in dict.fromkeys((0, len(x) - 1))]
    return [": ".join(part for part in (name, ", ".join(ends)) if part)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.4g}"


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED} more" if len(every) > _NAMED else "")
