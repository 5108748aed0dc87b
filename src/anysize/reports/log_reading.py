"""What a report tells of `log.txt`: when a run began and ended, and what it warned of."""

import dataclasses
import datetime
import re
from pathlib import Path

from anysize.files import read_text
from anysize.registry import in_a_line
from anysize.reports import run_files, schema
from anysize.reports.schema import read_piece

_LINE = re.compile(r"(\S{10}T\S{8,20}) (INFO|WARNING|ERROR) (.*)")
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

    def read(path: Path) -> LogFacts:
        return _facts(read_text(path, schema.TEXT_BYTES, "replace"))

    return read_piece(folder / run_files.LOG, read, LogFacts())


def show_day(time: datetime.datetime) -> str:
    """A date for people, whichever their language orders first.

    >>> show_day(datetime.datetime(2026, 3, 9, 14, 5))
    '9 Mar 2026'
    """
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}"


def _facts(content: str) -> LogFacts:
    times = []
    warnings: dict[str, tuple[int, datetime.datetime]] = {}
    for line in content.split("\n"):
        found = _LINE.fullmatch(line)
        time = _time(found[1]) if found else None
        if found is None or time is None:
            continue
        times.append(time)
        if found[2] != "INFO":
            text = in_a_line(found[3], _LONG)
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
