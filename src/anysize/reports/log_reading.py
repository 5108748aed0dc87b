"""What `log.txt` tells of a run: when it began and ended, what it warned of, whether an error ended it."""

import contextlib
import dataclasses
import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path

from anysize.files import open_regular, read_text
from anysize.registry import in_a_line
from anysize.reports import run_files, schema
from anysize.reports.schema import read_piece

ENDS = "the run ends: "
"""Begins the line of what ended a run: an ERROR, or INFO where it was asked to stop."""

_LINE = re.compile(r"(\S{10}T\S{8,20}) (INFO|WARNING|ERROR) (.*)")
_EPOCH = re.compile(r"epoch \d+/(\d{1,9}) .*")
_END = 1 << 14  # bytes of a log that are looked at for its last line
_TOLD, _LONG = 50, 500  # different warnings at most, and characters of one
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in any locale


@dataclasses.dataclass(frozen=True)
class LogFacts:
    """`began` and `ended` are the times of the first and the last line. `warnings` are (text, how often, when last)."""

    began: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    warnings: tuple[tuple[str, int, datetime.datetime], ...] = ()


def read_log(folder: Path) -> LogFacts:
    """The facts of a run's log; lines that are none of it are passed over.

    >>> read_log(Path("/nowhere"))
    LogFacts(began=None, ended=None, warnings=())
    """
    return _facts(_text(folder))


def planned_epochs(folder: Path) -> int | None:
    """The epochs of the whole run, as the line of the last one that is done says; None: there is no such line.

    >>> planned_epochs(Path("/nowhere"))
    """
    found = [_EPOCH.fullmatch(text) for _, level, text in _lines(_text(folder)) if level == "INFO"]
    return next((int(epoch[1]) for epoch in reversed(found) if epoch), None)


def ended_by_error(folder: Path) -> bool:
    """Whether the last line of a log says that an error ended the run; the end of the file alone is read.

    >>> ended_by_error(Path("/nowhere"))
    False
    """
    with contextlib.suppress(OSError), open_regular(folder / run_files.LOG) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        lines = [*_lines(file.read(_END).decode(errors="replace"))]
        return bool(lines) and lines[-1][1] == "ERROR" and lines[-1][2].startswith(ENDS)
    return False


def show_day(time: datetime.datetime) -> str:
    """A date for people, whichever their language orders first.

    >>> show_day(datetime.datetime(2026, 3, 9, 14, 5))
    '9 Mar 2026'
    """
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}"


def _text(folder: Path) -> str:
    return read_piece(folder / run_files.LOG, lambda path: read_text(path, schema.TEXT_BYTES, "replace"), "")


def _lines(content: str) -> Iterator[tuple[str, str, str]]:
    """Time, level and text of each line that `RunLog` may have written."""
    for line in content.split("\n"):
        if found := _LINE.fullmatch(line):
            yield found[1], found[2], found[3]


def _facts(content: str) -> LogFacts:
    times = []
    warnings: dict[str, tuple[int, datetime.datetime]] = {}
    for when, level, said in _lines(content):
        time = _time(when)
        if time is None:
            continue
        times.append(time)
        if level != "INFO":
            text = in_a_line(said, _LONG)
            often, _ = warnings.get(text, (0, time))
            if often or len(warnings) < _TOLD:
                warnings[text] = often + 1, time
    if not times:
        return LogFacts()
    return LogFacts(times[0], times[-1], tuple((text, often, last) for text, (often, last) in warnings.items()))


def _time(text: str) -> datetime.datetime | None:
    try:
        time = datetime.datetime.fromisoformat(text)
        return time.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None
