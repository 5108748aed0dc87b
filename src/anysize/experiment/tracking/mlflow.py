"""MLflow: a SQLite store, FOLDER/mlflow/mlflow.db, seen with `mlflow ui --backend-store-uri sqlite:///...`.

MLFLOW_TRACKING_URI names another store, such as a server.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anysize.experiment.tracking import TRACKERS, About, How
from anysize.export.extras import import_extra, quiet

_TAG = "anysize.identity"
_AT_ONCE = 100  # parameters of a call
_LONGEST = 500  # characters of a parameter
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@TRACKERS.register("mlflow")
class MLflow:
    """Writes settings as parameters, and metrics."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # read when the library is loaded
            os.environ.setdefault(variable, "true")
        self._module = import_extra("mlflow", "track")
        self._client: Any = None
        self._run = ""

    def start(self, about: About) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder / 'mlflow.db'}"
        with quiet():  # making the store tells each step of it
            self._client = self._module.MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(about.project)
            files = (self._folder / "artifacts").as_uri()
            experiment = known.experiment_id if known else self._client.create_experiment(about.project, files)
            found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{about.identity}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {_TAG: about.identity}
        self._run = self._client.create_run(experiment, run_name=about.name, tags=tags).info.run_id
        parameters = [self._module.entities.Param(k, str(v)[:_LONGEST]) for k, v in about.config.items()]
        for start in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(self._run, params=parameters[start : start + _AT_ONCE])

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self._run, metrics=[self._module.entities.Metric(name, value, now, step) for name, value in values.items()]
        )

    def finish(self, how: How) -> None:
        self._client.set_terminated(self._run, _STATUS[how])
