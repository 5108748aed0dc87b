"""COCO's run lengths as compressed text, and the area of a segmentation. Needs no pycocotools."""

import contextlib
import re
from typing import Any

import numpy as np


def expand_counts(text: str) -> list[int]:
    """The run lengths in COCO's compressed text, as of pycocotools' `encode`.

    A number is written in groups of five bits, the lowest first, as the character with code 48 + group, + 32 where
    another group follows; the last group's highest bit is the sign. From the fourth number on it is the difference to
    the number two places before (maskApi.c, rleToString). Raises a `ValueError` for any other text.

    >>> expand_counts("52203")
    [5, 2, 2, 2, 5]
    """
    if not re.fullmatch(r"(?:[P-o]{0,6}[0-O])*", text):
        raise ValueError("has counts that are no run lengths; expected COCO's compressed text")
    counts: list[int] = []
    for number in re.findall(r"[P-o]*[0-O]", text):
        groups = [(ord(character) - 48) & 31 for character in number]
        value = sum(group << 5 * place for place, group in enumerate(groups))
        if groups[-1] & 16:
            value -= 1 << 5 * len(groups)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def estimated_area(segmentation: Any, box: Any) -> float:
    """The area in pixels of an object whose annotation does not state it: of its segmentation, or else of its box.

    0 where neither tells: what is wrong with a segmentation is told when it is painted.

    >>> estimated_area([[0, 0, 4, 0, 4, 3, 0, 3]], None), estimated_area({"counts": [2, 5, 1]}, None)
    (12.0, 5.0)
    >>> estimated_area([], [10, 10, 4, 2])
    8.0
    """
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if isinstance(segmentation, dict):
            counts = segmentation["counts"]
            return float(sum((expand_counts(counts) if isinstance(counts, str) else counts)[1::2]))
        if segmentation:
            area = sum(map(_polygon_area, segmentation))
            return area if area < np.inf else 0.0  # nor NaN
        _, _, width, height = map(float, box)
        if 0 <= width * height < np.inf:
            return width * height
    return 0.0


def _polygon_area(polygon: list[Any]) -> float:
    """By the shoelace formula."""
    x, y = np.array(polygon, np.float64).reshape(-1, 2).T
    with np.errstate(all="ignore"):
        return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
