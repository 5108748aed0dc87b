"""Records that a task hands to evaluation and reports. Imports no torch."""

import dataclasses

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
    figures by class.
    """

    values: dict[str, float]
    tables: dict[str, Table] = dataclasses.field(default_factory=dict)


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
    """

    score: float
    lines: list[tuple[str, float | None, str]]
    panels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    legend: dict[str, Color] = dataclasses.field(default_factory=dict)
    number: str = ""
