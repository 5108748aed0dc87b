"""The rows of `steps.csv`: when one is due, and what the host knows of the steps since the one before."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

MOST_ROWS = 20_000
"""Of a run: the longer it is, the more steps a row is of."""


def steps_a_row(total: int, every: int) -> int:
    """Steps between two rows of a run of `total` steps: `every`, or as many times that as leave at most `MOST_ROWS`.

    >>> steps_a_row(1000, 10), steps_a_row(10_000_000, 10)
    (10, 500)
    """
    return every * max(1, -(-total // (every * MOST_ROWS)))


class Length(Protocol):
    """How long a run is."""

    @property
    def total_steps(self) -> int: ...


class StepRows:
    """Counts what the host knows of the steps since the last row. A part of the state: a resumed run has the same rows.

    >>> rows = StepRows()
    >>> rows.add(28, 48)
    >>> rows.add(14, 16)
    >>> rows.take(2.0)
    {'images': 64, 'sizes': {14: 0.25, 28: 0.75}, 'seconds': 2.0, 'images_per_second': 32.0, 'waiting': 0.0}
    """

    def __init__(self) -> None:
        self.images = 0
        """Of all processes, since the start of the run."""
        self.waited = 0.0
        """Seconds since the last row in which this process waited for images."""
        self._sizes: Counter[int] = Counter()
        self._seconds = 0.0  # of the run, at the last row

    def add(self, size: int, images: int) -> None:
        """Count a step at an image size on so many images of all processes."""
        self._sizes[size] += images
        self.images += images

    def take(self, seconds: float) -> dict[str, Any]:
        """A row's part, and begin anew; `seconds` are those of the run. Figures have the digits that the file has."""
        images, passed = self._sizes.total(), max(seconds - self._seconds, 1e-9)
        row = {
            "images": self.images,
            "sizes": {size: round(count / images, 4) for size, count in sorted(self._sizes.items())},
            "seconds": round(seconds, 3),
            "images_per_second": float(f"{images / passed:.5g}"),
            "waiting": round(min(1.0, self.waited / passed), 4),
        }
        self._sizes, self._seconds, self.waited = Counter(), seconds, 0.0
        return row

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        sizes = {str(size): count for size, count in self._sizes.items()}
        return {"images": self.images, "sizes": sizes, "seconds": self._seconds, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._sizes = Counter({int(size): int(count) for size, count in state["sizes"].items()})
        self.images, self._seconds, self.waited = int(state["images"]), float(state["seconds"]), float(state["waited"])


def is_due(step: int, length: Length, every: int) -> bool:
    """Whether step `step`, counted from 1, ends a row; the first and the last step of a run do, too."""
    return step in (1, length.total_steps) or step % steps_a_row(length.total_steps, every) == 0
