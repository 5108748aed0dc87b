"""Runs followed while they train: what they are doing, how far they are, and their curves, read as they grow.

    watched = Watched([Path("runs")])
    watched.look()
    for run in watched.runs: ...

A run may be replaced, resumed or deleted, and new ones may begin: each look takes what is there.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.finding import natural_key, runs_in
from anysize.reports.growing import GrowingSteps
from anysize.reports.log_reading import ended_by_error
from anysize.reports.reading import Run, thinned
from anysize.reports.running import is_held

RUNNING, STALLED, ENDED, STOPPED, FAILED, KILLED = "running", "stalled", "ended", "stopped", "failed", "killed"
"""States of a run. One that is stalled has a process that has written nothing for `STALL_SECONDS`; one that is killed
ended without a word."""
STALL_SECONDS = 300.0

DRAWN = 16
"""Runs at most that have curves: those that train, and the latest of the others."""

POINTS = 800
"""Of a curve at most."""

_MOST = 200  # runs that are followed
_EVERY = 0.5  # seconds between two looks at least, however many ask
_RECENT = 1.0  # epochs over which the time that is left is reckoned
_FILES = (run_files.METRICS, run_files.RECIPE, run_files.ENVIRONMENT)
_WRITTEN = (run_files.METRICS, run_files.STEPS, run_files.LOG)


class Followed:
    """A run folder: `run` holds its files as of the last look, `steps` the rows of `steps.csv`.

    `version` rises with each change of what is drawn.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.run: Run | None = None
        self.state = RUNNING
        self.written = 0.0
        self.version = 0
        self._steps = GrowingSteps(folder / run_files.STEPS)
        self._curve: tuple[int, pd.DataFrame] = -1, pd.DataFrame()  # of which version
        self._seen: list[tuple[int, int, int] | None] = []

    @property
    def trains(self) -> bool:
        """Whether a process trains it, as far as is known."""
        return self.state in (RUNNING, STALLED)

    @property
    def steps(self) -> pd.DataFrame:
        return self._steps.table

    @property
    def curve(self) -> pd.DataFrame:
        """The numbers of `steps`, thinned for a drawing."""
        if self._curve[0] != self.version:
            self._curve = self.version, thinned(self.steps.select_dtypes("number"), POINTS)
        return self._curve[1]

    def look(self, *, steps: bool = True) -> bool:
        """Read what is new; whether the run is still there. Without `steps` those of a run that trains alone are."""
        seen = [_signature(self.folder / name) for name in _FILES]
        if seen != self._seen:
            self._seen = seen
            self.version += 1
            try:
                self.run = Run.read(self.folder, self.name)
            except UserError:  # it was deleted, or has nothing yet
                self.run = None
        self.written = max(_touched(self.folder / name) for name in _WRITTEN)
        self.state = self._state()
        if steps or self.trains:
            self.version += self._steps.look()
        return self.run is not None

    def progress(self) -> "Progress":
        """How far the run is."""
        assert self.run
        done, planned = self.run.epochs
        epoch, last = float(done), {}
        if len(self.steps):
            last = self.steps.iloc[-1].to_dict()
            epoch = max(epoch, float(last.get("epoch", epoch)))
        metric = self.run.main_metric
        of_epoch = self.run.metrics.iloc[-1].to_dict() if len(self.run.metrics) else {}
        return Progress(
            epoch,
            max(planned, done),
            _number(last.get("loss", of_epoch.get("train_loss"))),
            metric,
            self.run.last(metric),
            _number(last.get("images_per_second", of_epoch.get("images_per_second"))) if self.trains else math.nan,
            _number(last.get("waiting", of_epoch.get("waiting"))) if self.trains else math.nan,
            self._left(epoch, planned) if self.trains else math.nan,
        )

    def _left(self, epoch: float, planned: int) -> float:
        """Seconds of training that are left, at the pace of late; NaN: not known."""
        table = self.steps if len(self.steps) > 1 else self.run.metrics if self.run else pd.DataFrame()
        if not {"epoch", "seconds"} <= set(table.columns) or not len(table):
            return math.nan
        known = table[["epoch", "seconds"]].dropna()
        late = known[known["epoch"] >= known["epoch"].iloc[-1] - _RECENT] if len(known) else known
        if len(late) < 2:
            late = pd.concat([pd.DataFrame({"epoch": [0.0], "seconds": [0.0]}), known.tail(1)])
        epochs, seconds = (float(late[column].iloc[-1] - late[column].iloc[0]) for column in ("epoch", "seconds"))
        return (planned - epoch) * seconds / epochs if epochs > 0 and planned >= epoch else math.nan

    def _state(self) -> str:
        held = is_held(self.folder)
        if held:
            return STALLED if time.time() - self.written > STALL_SECONDS else RUNNING
        if held is None:
            return KILLED
        if self.run and self.run.finished:
            return ENDED
        return FAILED if ended_by_error(self.folder) else STOPPED


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is; NaN for what is not known. `left` are seconds of training, without validation."""

    epoch: float
    planned: int
    loss: float
    metric: str
    value: float
    images_per_second: float
    waiting: float
    left: float


class Watched:
    """The runs in some folders: `runs`, those that train first, then those that were written to last."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.runs: list[Followed] = []
        self.looked = -math.inf
        self._known: dict[Path, Followed] = {}

    def look(self) -> None:
        """Look at all runs; nothing where that was done just now."""
        if time.monotonic() - self.looked < _EVERY:
            return
        self.looked = time.monotonic()
        found: dict[Path, Followed] = {}
        names: set[str] = set()
        for path in self.paths:
            for folder in runs_in(path):
                name = str(folder.relative_to(path)) if folder != path else folder.resolve().name
                name = str(folder) if name in names else name
                names.add(name)
                found.setdefault(folder, self._known.get(folder) or Followed(folder, name))
        recent = sorted(found, key=lambda folder: -max(_touched(folder / name) for name in _WRITTEN))[:_MOST]
        self._known = {folder: found[folder] for i, folder in enumerate(recent) if found[folder].look(steps=i < DRAWN)}
        self.runs = sorted(self._known.values(), key=_place)


def check_paths(paths: Sequence[str], default: str = "runs") -> list[Path]:
    """The folders to watch: those given, which are there, or else `default`, which may come to be.

    >>> check_paths([])
    [PosixPath('runs')]

    Raises:
        UserError: one is not there, or no folder.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            what = "is no folder" if os.path.lexists(path) else "is not there"
            raise UserError(f"{path} {what}; give run folders, or folders of runs")
    return [Path(path) for path in paths or [default]]


def _place(run: Followed) -> tuple[Any, ...]:
    return (not run.trains, 0 if run.trains else -run.written, natural_key(run.name))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _touched(path: Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
