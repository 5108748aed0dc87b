"""Multiples of a setting by image size or by epoch, given as tables with straight lines between their points."""

import math
from collections.abc import Mapping

import numpy as np

from anysize.registry import UserError


def multiple_at(table: Mapping[str, float], place: float) -> float:
    """What a table of places and multiples comes to at `place`: beyond its ends the nearest one, without a table 1.

    >>> multiple_at({"14": 0.5, "28": 1.0}, 21), multiple_at({"14": 0.5, "28": 1.0}, 42), multiple_at({}, 28)
    (0.75, 1.0, 1.0)
    """
    if not table:
        return 1.0
    places, multiples = zip(*sorted((float(key), multiple) for key, multiple in table.items()), strict=True)
    return float(np.interp(place, places, multiples))


def check_places(name: str, table: Mapping[str, float], unit: str) -> None:
    """Raise a `UserError` for a table whose places are no whole numbers of `unit`, or come twice.

    >>> check_places("optimizer.lr_by_size", {"small": 2.0}, "pixels")
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: optimizer.lr_by_size is {'small': 2.0}; expected whole pixels = multiple, each once
    """
    if not all(key.isdecimal() for key in table) or len({int(key) for key in table}) < len(table):
        raise UserError(f"{name} is {dict(table)}; expected whole {unit} = multiple, each once")


def check_largest(name: str, value: float, tables: Mapping[str, Mapping[str, float]], most: float) -> None:
    """Raise a `UserError` where tables can make more of a value than `most`.

    >>> check_largest("dropout", 0.5, {"training.dropout_by_size": {"14": 1.0, "28": 3.0}}, 1.0)
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: training.dropout_by_size makes dropout of 0.5 up to 1.5; expected at most 1
    """
    largest = value * math.prod(max(table.values(), default=1.0) for table in tables.values())
    if largest > most:
        names = " and ".join(name for name, table in tables.items() if table)
        make = "make" if " and " in names else "makes"
        raise UserError(f"{names} {make} {name} of {value:g} up to {largest:g}; expected at most {most:g}")
