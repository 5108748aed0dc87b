"""The tables of an evaluation by class, by object size and the like: their file in a run folder, and how they look.

`evaluation_tables.csv` has a row a value: `checkpoint`, `split`, `settings`, `size`, `calibrated`, then `table`, `row`
and `column`, which say what the `value` is of.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from anysize.reports.columns import show
from anysize.reports.text_table import TextTable
from anysize.tasks.records import Table


def table_rows(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """A row a value.

    >>> table_rows({"by class": {"cat": {"IoU": 0.5}}})
    [{'table': 'by class', 'row': 'cat', 'column': 'IoU', 'value': 0.5}]
    """
    return [
        {"table": title, "row": row, "column": column, "value": value}
        for title, table in tables.items()
        for row, values in table.items()
        for column, value in values.items()
    ]


def tables_at(frame: pd.DataFrame, size: int) -> tuple[str, dict[str, TextTable]]:
    """The tables at the size nearest to `size`, calibrated where that was done: how, and the tables by title."""
    if not len(frame):
        return "", {}
    nearest = min(frame["size"].unique(), key=lambda other: (abs(other - size), other))
    at = frame[frame["size"] == nearest]
    calibrated = bool(at["calibrated"].any())
    at = at[at["calibrated"] == calibrated]
    found = {}
    for title, table in at.groupby("table", sort=False):
        columns, rows = (list(dict.fromkeys(table[key].astype(str))) for key in ("column", "row"))
        values = {(row, column): value for row, column, value in table[["row", "column", "value"]].to_numpy()}
        cells = [[row, *(show(column, values.get((row, column))) for column in columns)] for row in rows]
        found[str(title)] = TextTable(["", *columns], cells)
    return f"at {nearest} px{', calibrated' if calibrated else ''}", found
