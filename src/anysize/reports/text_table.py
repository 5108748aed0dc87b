"""A table for people: its cells are text already. `console.draw_table` and `page.table` draw it."""

import dataclasses
from collections.abc import Collection, Sequence


@dataclasses.dataclass(frozen=True)
class TextTable:
    """Heading and cells of a table, and how its columns are shown.

    The first `labels` columns hold text, the others numbers. `cut` are columns of text that give way where there is
    little room. The cells (row, column) in `best` stand out; `total` is a last row that sums up. A line break in a
    cell is one on the console alone.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Collection[tuple[int, int]] = ()
    labels: int = 1
    cut: Collection[int] = ()
    total: Sequence[str] = ()
    title: str = ""
    caption: str = ""

    def part(self, columns: Sequence[int]) -> "TextTable":
        """The table of some columns, all labels among them.

        >>> TextTable(["a", "b", "c"], [["1", "2", "3"]], best={(0, 2)}).part([0, 2])
        TextTable(header=['a', 'c'], rows=[['1', '3']], best={(0, 1)}, labels=1, cut=[], total=(), title='', caption='')
        """
        return dataclasses.replace(
            self,
            header=[self.header[column] for column in columns],
            rows=[[row[column] for column in columns] for row in self.rows],
            best={(row, columns.index(column)) for row, column in self.best if column in columns},
            cut=[columns.index(column) for column in self.cut if column in columns],
            total=[self.total[column] for column in columns] if self.total else (),
        )

    def turned(self, heading: str) -> "TextTable":
        """Columns as rows; `heading` is what the columns' headings are of."""
        _, *rows = zip(self.header, *self.rows, strict=True)
        header = [heading, *(row[0] for row in self.rows)]
        return dataclasses.replace(self, header=header, rows=rows, best={(j - 1, i + 1) for i, j in self.best})
