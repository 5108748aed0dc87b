"""Records that a task hands to evaluation and reports. Imports no torch."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Color = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""

OBJECT_SIZES = ("small", "medium", "large")
"""Of objects, by their area. A value whose name ends in one of them, such as `map_small`, is that of such objects."""

Table = dict[str, dict[str, float]]
"""Row -> column -> value."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures of a task over a whole data set.

    `values` are the few numbers that runs are followed and compared by; `tables`, by title, is all the rest, such as
    figures by class. `confusion`, of masks, has the pixels of each true class by the class they are taken for, where
    there are some.
    """

    values: dict[str, float]
    tables: dict[str, Table] = dataclasses.field(default_factory=dict)
    confusion: Table = dataclasses.field(default_factory=dict)


class Judged(NamedTuple):
    """The prediction for an image beside what is true of it, in a row.

    `score` says how good it is, as that of `Shown` does. `probability` is what the network gives its answer, of labels
    the surest one that is wrong; None: there is none.
    """

    truth: str
    predicted: str
    score: float
    probability: float | None = None


Note = Callable[[Judged], object]
"""Is told of each image of a batch in order."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A prediction as the report shows it beside its image.

    Args:
        score: how good it is; the report begins with the lowest.
        lines: what is said of it: label, number (such as a probability) or None, and "right", "wrong" or "missed", or
            where nothing is known of the image "predicted" or "other".
        panels: further pictures, uint8 (H, W, 3), by title.
        legend: colours of the panels by label.
        number: what the numbers of the lines are, such as "probability".
        one: the first line alone is the prediction, and other wrong ones are what came next; else all lines are, but
            for those that are missed.
    """

    score: float
    lines: list[tuple[str, float | None, str]]
    panels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    legend: dict[str, Color] = dataclasses.field(default_factory=dict)
    number: str = ""
    one: bool = False
