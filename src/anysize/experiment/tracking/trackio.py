"""Trackio: a store in FOLDER/trackio, seen with `TRACKIO_DIR=FOLDER/trackio trackio show`."""

import os
from collections.abc import Mapping
from pathlib import Path

from anysize.experiment.tracking import TRACKERS, About, How
from anysize.export.extras import import_extra, quiet


@TRACKERS.register("trackio")
class Trackio:
    """Writes settings as the config, and metrics."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for variable, value in (("GRADIO_ANALYTICS_ENABLED", "False"), ("HF_HUB_DISABLE_TELEMETRY", "1")):
            os.environ.setdefault(variable, value)  # read when the library is loaded
        os.environ["TRACKIO_DIR"] = str(folder)  # as this is
        self._module = import_extra("trackio", "track")

    def start(self, about: About) -> None:
        with quiet():
            self._module.init(project=about.project, name=about.title, config=dict(about.config), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._module.log(dict(values), step=step)

    def finish(self, how: How) -> None:
        with quiet():
            self._module.finish()
