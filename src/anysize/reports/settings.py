"""Settings of what a run is told to. Imports no torch."""

import dataclasses

from anysize.registry import setting


@dataclasses.dataclass(frozen=True)
class TrackingSettings:
    """The `[tracking]` section of a recipe: other programs that a run's figures go to, beside its own files."""

    names: tuple[str, ...] = setting(
        (), "trackers that are told of the run, any of tensorboard, mlflow, wandb, trackio (extra `track`); empty: none"
    )
    project: str = setting("anysize", "the project, or experiment, of the trackers that the run belongs to")
    folder: str = setting("tracking", "folder of the trackers' files, one in it for each tracker")
