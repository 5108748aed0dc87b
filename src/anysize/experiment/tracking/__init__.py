"""Trackers that a run's figures go to: one small file each, with the same three calls.

    tracking = open_trackers(recipe.tracking)         # says which library is missing, before anything is trained
    tracking.start(About(...))
    tracking.log({"epoch/train_loss": 0.5}, step=100)
    tracking.finish("finished")

All of them write into a local folder, and nothing goes over the network, unless their own variables say otherwise
(WANDB_MODE, MLFLOW_TRACKING_URI). What fails in one is said once, and the training goes on without it. A new tracker is
one new file here: a class with the calls of `Tracker` that `@TRACKERS.register("name")` decorates.
"""

import dataclasses
import importlib
import logging
import math
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from anysize.registry import Registry
from anysize.reports.run_files import reason_of
from anysize.reports.settings import TrackingSettings

logger = logging.getLogger(__name__)

How = Literal["finished", "interrupted", "failed"]
"""How a run ended."""


@dataclasses.dataclass(frozen=True)
class About:
    """What a tracker is told of a run when it starts, or goes on.

    `name` is that of the run folder, `identity` 16 digits that stay the run's own, `config` its settings, one value
    each, `text` the same as a file, and `step` the steps that are done.
    """

    name: str
    identity: str
    project: str
    config: Mapping[str, str | int | float | bool]
    text: str
    step: int

    @property
    def title(self) -> str:
        """A name that no other run has."""
        return f"{self.name}-{self.identity[:8]}"


class Tracker(Protocol):
    """The calls of a tracker.

    It is made with the folder that it writes to, which is there when it starts. It then imports its library, or raises
    a `UserError` that names the extra.
    """

    def start(self, about: About) -> None:
        """Begin a run, or go on with that of the same identity."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note finite values by name, at a step."""

    def finish(self, how: How) -> None:
        """End the run, and write all that is not written."""


TRACKERS: Registry[Tracker] = Registry("tracker")


def open_trackers(settings: TrackingSettings, warn: Callable[[str], object] = logger.warning) -> "Tracking":
    """The trackers of a recipe, with their libraries loaded; nothing is written yet.

    Raises:
        UserError: an unknown tracker, or one whose library is not installed.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    folder = Path(settings.folder).expanduser().absolute()
    folders = {name: folder / name for name in settings.names}
    return Tracking({name: TRACKERS[name](path) for name, path in folders.items()}, folders, warn)


class Tracking:
    """Several trackers as one; what fails in one is said once, and it is left out from then on."""

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        folders: Mapping[str, Path],
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        self._trackers, self._folders = dict(trackers), folders
        self._started: list[str] = []
        self._warn = warn

    def start(self, about: About) -> None:
        """Begin the run in all of them, each in a folder of its own, or go on with it."""

        def start(name: str, tracker: Tracker) -> None:
            self._folders[name].mkdir(parents=True, exist_ok=True)
            tracker.start(about)
            self._started.append(name)

        self._each(start)

    def log(self, row: Mapping[str, Any], step: int, group: str) -> None:
        """Note the finite numbers of a row, as GROUP/COLUMN; a table's as GROUP/COLUMN/KEY."""
        values = {f"{group}/{name}": value for name, value in numbers_of(row).items()}
        if values:
            self._each(lambda _, tracker: tracker.log(values, step))

    def finish(self, how: How) -> None:
        """End the run in those that it was started in."""
        self._each(lambda name, tracker: tracker.finish(how) if name in self._started else None)
        self._trackers = {}

    def _each(self, do: Callable[[str, Tracker], object]) -> None:
        for name, tracker in [*self._trackers.items()]:
            try:
                do(name, tracker)
            except Exception as error:  # a library's of any kind: no figure of the run itself is lost
                del self._trackers[name]
                self._warn(f"{name} is not told of this run any more: {reason_of(error)}")


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row by name, but for its step; of a table, such as the shares of sizes, each by its key.

    >>> numbers_of({"step": 7, "loss": 0.5, "lr": math.nan, "calibrated": True, "sizes": {28: 0.4}})
    {'loss': 0.5, 'sizes/28': 0.4}
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": number for key, number in numbers_of(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[str(name)] = float(value)
    return {name: value for name, value in found.items() if name != "step"}
