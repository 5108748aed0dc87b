"""Weights & Biases: FOLDER/wandb/offline-run-..., which `wandb sync` uploads; WANDB_MODE=online does so at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anysize.experiment.tracking import TRACKERS, About, How
from anysize.export.extras import import_extra, quiet

_SETTINGS = {
    "silent": True,
    "console": "off",  # the run's own log is its own
    "save_code": False,
    "disable_git": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
}


@TRACKERS.register("wandb")
class WandB:
    """Writes settings as the config, and metrics."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when the library is loaded
        self._module = import_extra("wandb", "track")
        self._run: Any = None

    def start(self, about: About) -> None:
        with quiet():
            self._run = self._module.init(
                project=about.project,
                name=about.name,
                id=about.identity,
                resume="allow",
                dir=str(self._folder.parent),  # to which it adds a folder of its own name
                config=dict(about.config),
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings=self._module.Settings(**_SETTINGS),
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, how: How) -> None:
        with quiet():
            self._run.finish(exit_code=0 if how == "finished" else 1)
            self._module.teardown()  # the process that writes its files
