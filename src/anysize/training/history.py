"""The rows of `metrics.csv` as a part of the state: a checkpoint holds them, and the file beside it can be mended."""

from collections.abc import Mapping, Sequence
from typing import Any

from anysize.reports.run_files import rows_of, text_of


class History:
    """The rows of the epochs that are done, each as text that stays as it is.

    >>> history = History()
    >>> history.add({"epoch": 1, "train_loss": 0.5})
    >>> other = History()
    >>> other.load_state_dict(history.state_dict())
    >>> other.merge([{"epoch": "1", "train_loss": "0.4"}, {"epoch": "2", "train_loss": "0.3"}], epoch=2)
    [1]
    >>> print(other.text, end="")
    epoch,train_loss
    1,0.5
    2,0.3
    """

    def __init__(self) -> None:
        self.text = ""
        """As the file has it."""

    @property
    def rows(self) -> list[dict[str, str]]:
        """A row an epoch."""
        return rows_of(self.text)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the row of the next epoch."""
        self.text = text_of([*self.rows, row])

    def merge(self, written: Sequence[Mapping[str, str]], epoch: int) -> list[int]:
        """Take over what is `written` of epochs up to `epoch` that have no row here.

        Returns:
            The epochs that have another row here, or are not written.
        """
        own = {number: row for row in self.rows if (number := _epoch(row)) <= epoch}
        held = {number: row for row in written if 0 < (number := _epoch(row)) <= epoch}
        self.text = text_of([row for _, row in sorted({**held, **own}.items())])
        return [number for number, row in own.items() if _filled(held.get(number, {})) != _filled(row)]

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"csv": self.text}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.text = str(state["csv"])


def _epoch(row: Mapping[str, Any]) -> int:
    """The epoch of a row, counted from 1; 0 where it tells none."""
    try:
        return int(row["epoch"])
    except (KeyError, TypeError, ValueError):
        return 0


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells that are not empty: a column that came later is empty in rows of before."""
    return {name: value for name, value in row.items() if value}
