"""Sizes to evaluate at, and the best of them for a budget."""

import re
from collections.abc import Iterable

import pandas as pd

from anysize.registry import UserError
from anysize.reports.columns import show
from anysize.sizes.shapes import Extent, extent_of, parse_shape


def parse_sizes(given: str | Iterable[int]) -> list[int]:
    """Image sizes from `START:STOP:STEP` (STOP included), a list `16,24,32`, or integers.

    >>> parse_sizes("16:48:8"), parse_sizes("14,28")
    ([16, 24, 32, 40, 48], [14, 28])

    Raises:
        UserError: neither form, or a size below 1.
    """
    if not isinstance(given, str):
        sizes = [int(size) for size in given]
    elif re.fullmatch(r"\d+:\d+(:0*[1-9]\d*)?", given):
        start, stop, *step = (int(part) for part in given.split(":"))
        sizes = list(range(start, stop + 1, step[0] if step else 1))
    elif re.fullmatch(r"\d+([ ,]+\d+)*", given.strip()):
        sizes = [int(part) for part in re.split(r"[ ,]+", given.strip())]
    else:
        raise UserError(f"sizes are {given!r}; expected START:STOP:STEP such as 16:48:4, or a list such as 16,24,32")
    if not sizes or min(sizes) < 1:
        raise UserError(f"sizes are {given!r}, which names no size of at least 1 pixel")
    return sizes


def parse_extents(given: str | Iterable[int]) -> list[Extent]:
    """As `parse_sizes`; a list may have shapes HEIGHTxWIDTH besides.

    >>> parse_extents("192x256,224"), parse_extents("16:32:8")
    ([(192, 256), 224], [16, 24, 32])
    """
    if not isinstance(given, str) or "x" not in given.lower():
        return list(parse_sizes(given))
    found: list[Extent] = []
    for part in re.split(r"[ ,]+", given.strip()):
        found += [extent_of(*parse_shape(part))] if "x" in part.lower() else parse_sizes(part)
    return found


_UNITS = {"flops": ("flops", 1.0), "kflops": ("flops", 1e3), "mflops": ("flops", 1e6), "gflops": ("flops", 1e9)}
_UNITS |= {"us": ("seconds", 1e-6), "ms": ("seconds", 1e-3), "s": ("seconds", 1.0)}


def parse_budget(budget: str) -> tuple[str, float]:
    """The quantity that a budget limits, "flops" or "seconds", and its unit.

    >>> parse_budget("50 MFLOPs")
    ('flops', 1000000.0)

    Raises:
        UserError: not a number followed by a unit of FLOPs or time.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]+)", budget.strip().lower())
    if not match or match[2] not in _UNITS:
        raise UserError(f"the budget is {budget!r}; expected FLOPs or time an image, such as 50MFLOPs or 2ms")
    return _UNITS[match[2]]


def seconds_of(table: pd.DataFrame) -> "pd.Series[float]":
    """Seconds that an image takes at each row of an evaluation: alone where that was measured, else among others."""
    seconds: pd.Series[float] = table["latency"] if "latency" in table else 1 / table["images_per_second"]
    return seconds


def best_for_budget(table: pd.DataFrame, budget: str, metric: str = "top1") -> pd.Series:
    """The row with the highest `metric` that costs at most `budget` an image, such as `50MFLOPs` or `2ms`.

    FLOPs are those of the forward pass. Time is the `latency` of one image alone where that was measured, else that of
    one among others: the reciprocal of the images a second.

    >>> table = pd.DataFrame({"size": [16, 32], "top1": [0.7, 0.8], "flops": [2e7, 8e7]})
    >>> table["images_per_second"] = [900, 300]
    >>> int(best_for_budget(table, "50MFLOPs")["size"]), int(best_for_budget(table, "10ms")["size"])
    (16, 32)

    Raises:
        UserError: not a budget, or one that no size meets.
    """
    column, unit = parse_budget(budget)
    limit, name = float(re.sub(r"[a-zA-Z\s]+$", "", budget)) * unit, re.sub(r"^[\d.\s]+", "", budget.strip())
    cost = table["flops"] if column == "flops" else seconds_of(table)
    affordable = table[cost <= limit]
    if affordable.empty:
        least = show("flops", cost.min()) if column == "flops" else f"{show('lr', cost.min() / unit)} {name}"
        raise UserError(f"no size meets the budget {budget}: the cheapest takes {least}; add smaller ones")
    return affordable.iloc[int(affordable[metric].argmax())]
