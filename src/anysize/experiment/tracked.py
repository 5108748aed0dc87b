"""The log of a run that trackers are told of, too."""

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from anysize.experiment.tracking import About, Tracking
from anysize.files import read_text
from anysize.recipe import Recipe, dump, to_dict
from anysize.reports import run_files
from anysize.reports.run_log import RunLog
from anysize.stopping import Interrupted

_IDENTITY = re.compile("[0-9a-f]{16}")


class TrackedLog(RunLog):
    """A `RunLog` that hands the rows of epochs and steps on to trackers, from `track` on; at its end their run ends.

    >>> import io, tempfile
    >>> from anysize.experiment.tracking import open_trackers
    >>> from anysize.reports.settings import TrackingSettings
    >>> tracking = open_trackers(TrackingSettings())
    >>> with TrackedLog(Path(tempfile.mkdtemp()), 1, Console(file=io.StringIO()), tracking) as log:
    ...     log.epoch({"epoch": 1, "step": 7, "train_loss": 0.5})
    """

    def __init__(self, folder: Path, epochs: int, console: Console | None, tracking: Tracking) -> None:
        super().__init__(folder, epochs, console)
        self._tracking = tracking
        self._tracked = False

    def track(self, recipe: Recipe, step: int) -> None:
        """Begin the run in the trackers, or go on with it behind `step`."""
        config = {
            f"{section}.{key}": value if isinstance(value, (int, float)) else str(value)
            for section, part in to_dict(recipe).items()
            for key, value in part.items()
        }
        name = self.folder.absolute().name
        self._tracked = True
        self._tracking.start(About(name, self._identity(), recipe.tracking.project, config, dump(recipe), step))

    def epoch(self, row: Mapping[str, Any]) -> None:
        super().epoch(row)
        if self._tracked:
            self._tracking.log(row, int(row["step"]), "epoch")

    def steps(self, rows: Sequence[Mapping[str, Any]], *, now: bool = False) -> None:
        super().steps(rows, now=now)
        for row in rows if self._tracked else ():
            self._tracking.log(row, int(row["step"]), "step")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tracked:
            interrupted = isinstance(error, (Interrupted, KeyboardInterrupt))
            self._tracking.finish("finished" if error is None else "interrupted" if interrupted else "failed")
        super().__exit__(kind, error, traceback)

    def _identity(self) -> str:
        """What tells this run from all others in the trackers: kept in the run folder, so that it goes on in them."""
        path = self.folder / run_files.TRACKING
        try:
            if _IDENTITY.fullmatch(found := read_text(path, 100).strip()):
                return found
        except (OSError, ValueError):  # there is none yet, or it is none
            pass
        new = secrets.token_hex(8)
        self.go_on_without(path, lambda: run_files.write_atomically(path, f"{new}\n"))
        return new
