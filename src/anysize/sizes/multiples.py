"""Multiples of a setting by image size or by epoch, given as tables with straight lines between their points."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Multiples:
    """What a setting is multiplied by, by image size and by epoch: by the settings NAME_by_size and NAME_by_epoch.

    Raises:
        UserError: malformed tables.

    >>> dropout = Multiples("training.dropout", {"14": 0.5, "28": 1.0}, {"0": 0.0, "10": 1.0})
    >>> dropout.at(21, epoch=5)
    0.375
    """

    name: str
    by_size: Mapping[str, float]
    by_epoch: Mapping[str, float]

    def __post_init__(self) -> None:
        check_places(f"{self.name}_by_size", self.by_size, "pixels")
        check_places(f"{self.name}_by_epoch", self.by_epoch, "epochs")

    @property
    def given(self) -> str:
        """The names of the tables that say something, for people; empty: there is none."""
        tables = {"by_size": self.by_size, "by_epoch": self.by_epoch}
        return " and ".join(f"{self.name}_{key}" for key, table in tables.items() if table)

    def at(self, size: int, epoch: int) -> float:
        """The multiple in steps of `size` pixels in `epoch` (a pass over the images, from 0)."""
        return multiple_at(self.by_size, size) * multiple_at(self.by_epoch, epoch)

    def check_largest(self, what: str, value: float, most: float = 1.0) -> None:
        """Raise a `UserError` where the tables can make more of a value than `most`.

        >>> Multiples("training.dropout", {"14": 1.0, "28": 3.0}, {}).check_largest("dropout", 0.5)
        Traceback (most recent call last):
        ...
        anysize.registry.UserError: training.dropout_by_size: up to 1.5 of dropout = 0.5; expected at most 1
        """
        largest = value * max(self.by_size.values(), default=1.0) * max(self.by_epoch.values(), default=1.0)
        if largest > most:
            raise UserError(f"{self.given}: up to {largest:g} of {what} = {value:g}; expected at most {most:g}")
