"""What was left out of a data set, by reason: counted and named."""

import logging

from anysize.ranks import main_process
from anysize.registry import printable

logger = logging.getLogger(__name__)

_KEPT = 20  # names of each reason: there may be a million files


class LeftOut:
    """What was left out of a data set: how many by reason, and the first names, in the order in which they were met.

    >>> left_out = LeftOut()
    >>> left_out.add("made by the system", "cat/@eaDir")
    >>> left_out.add("no image", "cat/notes.txt")
    >>> str(left_out), len(left_out)
    ('1 made by the system (cat/@eaDir); 1 no image (cat/notes.txt)', 2)
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}  # the first of each reason

    def add(self, reason: str, name: str) -> None:
        """Note a file, a folder, or whatever else has a name."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(names := self.names.setdefault(reason, [])) < _KEPT:
            names.append(name)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def lines(self, shown: int = _KEPT) -> list[str]:
        """How many there are of each reason, with the first `shown` names."""
        lines = []
        for reason, count in self.counts.items():
            names = self.names[reason][:shown]
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            lines.append(f"{count:,} {reason} ({', '.join(names)}{more})")
        return lines

    def __str__(self) -> str:
        return "; ".join(self.lines(3))


def warn(text: str) -> None:
    """Warn of what all processes of a run find alike: the main one alone says it."""
    if main_process():
        logger.warning("%s", printable(text))


def warn_of(left_out: LeftOut, name: str) -> None:
    """Warn, in one line, of what was left out of the data called `name`."""
    if left_out:
        warn(f"{name}: left out {left_out}")
