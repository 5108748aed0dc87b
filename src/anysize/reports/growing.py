"""`steps.csv`, read while it grows: of each look at it, what was added since the one before."""

import csv
import io
import os
from pathlib import Path

import pandas as pd

from anysize.files import open_regular
from anysize.reports import schema
from anysize.reports.read_tables import table_of
from anysize.reports.reading import check_steps
from anysize.reports.schema import cells_of, say_left_out

_AT_ONCE = 1 << 23  # bytes that a look reads at most: a server that reads goes on within a second
_TAIL = 64  # bytes before the end of what was read, by which a file of the same name is known again


class GrowingSteps:
    """The table of a `steps.csv` that rows are added to, and that may be replaced, cut or removed at any time.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "steps.csv"
    >>> steps = GrowingSteps(path)
    >>> _ = path.write_text("step,loss\\n10,0.5\\n20,0.")
    >>> steps.look(), steps.table["step"].to_list()
    (True, [10])
    >>> with path.open("a") as file:
    ...     _ = file.write("25\\n")
    >>> steps.look(), steps.table["loss"].to_list(), steps.look()
    (True, [0.5, 0.25], False)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = pd.DataFrame()
        self._known: tuple[int, int] | None = None  # device and number of the file
        self._at, self._tail, self._header = 0, b"", b""

    def look(self) -> bool:
        """Read what is new; whether the table has changed.

        What does not fit the schema is left out, which the log says once: the rows of one look.
        """
        try:
            return self._look()
        except OSError as error:
            had = len(self.table) > 0
            self._forget()
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                say_left_out(str(self.path), error)
            return had

    def _look(self) -> bool:
        with open_regular(self.path) as file:
            status = os.fstat(file.fileno())
            known = (status.st_dev, status.st_ino)
            had = len(self.table) > 0
            begins = known != self._known or status.st_size < self._at or not self._is_same(file)
            if begins:
                self._forget()
            file.seek(self._at)
            new = file.read(_AT_ONCE)
        self._known = known
        new = new[: new.rfind(b"\n") + 1]
        if not new:
            return begins and had
        self._at += len(new)
        self._tail = (self._tail + new)[-_TAIL:]
        if not self._header:
            self._header, _, new = new.partition(b"\n")
        try:
            header, rows = cells_of((self._header + b"\n" + new).decode())
            table = table_of(self.path, header, rows, schema.STEPS)
            table = pd.concat([self.table, table], ignore_index=True) if len(self.table) else table
            check_steps(table)
        except (ValueError, RecursionError, csv.Error) as error:
            say_left_out(f"a part of {self.path}", error)
        else:
            self.table = table.iloc[-schema.STEPS.rows :]
        return True

    def _is_same(self, file: io.BufferedReader) -> bool:
        """Whether the file still ends, where it was read to, as it did."""
        file.seek(self._at - len(self._tail))
        tail: bytes = file.read(len(self._tail))
        return tail == self._tail

    def _forget(self) -> None:
        self.table = pd.DataFrame()
        self._known, self._at, self._tail, self._header = None, 0, b"", b""
