"""What was left out of a data set, by reason: counted and named."""

import logging

logger = logging.getLogger(__name__)


class LeftOut:
    """What was left out of a data set: the names by reason, in the order in which they were met.

    >>> left_out = LeftOut()
    >>> left_out.add("made by the system", "cat/@eaDir")
    >>> left_out.add("no image", "cat/notes.txt")
    >>> str(left_out), len(left_out)
    ('1 made by the system (cat/@eaDir); 1 no image (cat/notes.txt)', 2)
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Note a file, a folder, or whatever else has a name."""
        self.names.setdefault(reason, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self.names.values()))

    def lines(self, shown: int) -> list[str]:
        """How many there are of each reason, with the first `shown` names."""
        lines = []
        for reason, names in self.names.items():
            more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
            lines.append(f"{len(names):,} {reason} ({', '.join(names[:shown])}{more})")
        return lines

    def __str__(self) -> str:
        return "; ".join(self.lines(3))


def warn_of(left_out: LeftOut, name: str) -> None:
    """Warn, in one line, of what was left out of the data called `name`."""
    if left_out:
        logger.warning("%s: left out %s", name, left_out)
