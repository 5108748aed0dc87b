"""The tables of a run folder, read by their `schema`: what does not fit is left out, which the log says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anysize.forms import Unfit, one_of
from anysize.registry import in_a_line
from anysize.reports.schema import Columns, read_cells, read_piece, say_left_out


def read_table(path: Path, columns: Columns, check: Callable[[pd.DataFrame], None] | None = None) -> pd.DataFrame:
    """A table of a run folder; empty without its file, and, which is said, where that does not fit.

    Text stays as it stands: a class may be called "007" or "NA". A column that holds no numbers and is not needed is
    left out alone.

    Args:
        check: looks at what concerns several columns, and raises `Unfit`.
    """
    return read_piece(path, lambda path: _table(path, columns, check), pd.DataFrame())


def of_split(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of a table that are of a split, or the table as it is where it has no rows."""
    return frame[frame["split"] == split].reset_index(drop=True) if len(frame) else frame


def _table(path: Path, columns: Columns, check: Callable[[pd.DataFrame], None] | None) -> pd.DataFrame:
    return table_of(path, *read_cells(path, grows=columns.grows), columns, check)


def table_of(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: Columns,
    check: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """The table of cells that were read from `path`; as `read_table`, but a `ValueError` for what does not fit."""
    if missing := [name for name in columns.needed if name not in header]:
        raise Unfit("the header", ",".join(header), f"one with {', '.join(missing)}")
    if len(rows) > columns.rows:
        raise Unfit("the number of rows", len(rows), f"at most {columns.rows:,}")
    found = {}
    for name, cells in zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True):
        try:
            found[name] = _column(name, cells, columns)
        except ValueError as error:
            if name in columns.needed:
                raise
            say_left_out(f"the column {in_a_line(name)} of {path}", error)
    frame = pd.DataFrame(found)
    if check:
        check(frame)
    return frame


def _column(name: str, cells: Sequence[str], columns: Columns) -> "pd.Series[Any]":
    values: pd.Series[Any]
    if name in columns.truths:
        for i, cell in enumerate(cells, start=2):
            one_of("True", "False", "")(cell, f"{name} in line {i}")
        values = pd.Series([cell == "True" for cell in cells], dtype=bool)
    elif name in columns.texts:
        values = pd.Series(cells, dtype=str)
    else:
        try:
            values = pd.Series(pd.to_numeric(pd.Series([cell or None for cell in cells], dtype=object)))
            values = values.astype(float) if values.dtype == object else values
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(str(error)) from None
        if len(infinite := np.flatnonzero(np.isinf(values.to_numpy()))):
            raise Unfit(f"{name} in line {infinite[0] + 2}", float(values[infinite[0]]), "a finite number")
    if form := columns.needed.get(name) or columns.may.get(name):
        held = (values if name in columns.needed else values.dropna()).tolist()
        for value in dict.fromkeys(held):  # each once: most columns of long tables have few values
            try:
                form(value, name)
            except Unfit:
                form(value, f"{name} in line {values.tolist().index(value) + 2}")
    return values
