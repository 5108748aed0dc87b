"""`steps.csv`: a row every few steps, appended to while a run trains.

A row goes to the system within a second, and always before a checkpoint is written. What a kill leaves behind the
checkpoint, half a line among it, is cut off when the run goes on.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from anysize.files import open_in_place
from anysize.reports import run_files

_SECONDS = 1.0  # that a row waits at most for others


class StepsFile:
    """Appends rows to a file; it is opened with the first one. Errors are `OSError`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "steps.csv"
    >>> file = StepsFile(path)
    >>> for step in (10, 20):
    ...     file.add({"step": step, "sizes": {28: 1.0}, "loss": 0.5})
    >>> file.cut(10)
    >>> print(path.read_text(), end="")
    step,sizes,loss
    10,"{""28"": 1.0}",0.5
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._columns: list[str] = []  # that the file has
        self._flushed = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row at the end; columns that come later are added to the rows of before."""
        if self._file is None or not row.keys() <= set(self._columns):
            self._open(row)
        assert self._file
        self._file.write(run_files.text_of([row], self._columns, header=False))
        if time.monotonic() - self._flushed >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand what was written to the system: it outlives this process."""
        if self._file:
            self._file.flush()
        self._flushed = time.monotonic()

    def cut(self, step: int) -> None:
        """Remove the rows behind a step, and half a row; the next ones go into a new file, whoever still holds this."""
        self.close()
        run_files.write_rows(self.path, [row for row in self._rows() if int(row["step"]) <= step])

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file:
            file.close()

    def _rows(self) -> list[dict[str, str]]:
        return run_files.read_rows(self.path, lambda row: int(row["step"]), grows=True)

    def _open(self, row: Mapping[str, Any]) -> None:
        self.close()
        rows = self._rows()
        self._columns = list(dict.fromkeys([*(rows[0] if rows else ()), *row]))
        if not rows or self._columns != list(rows[0]):
            first = run_files.text_of(rows, self._columns)
            run_files.write_atomically(self.path, first)
        self._file = open_in_place(self.path, append=True)
