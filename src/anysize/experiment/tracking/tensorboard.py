"""TensorBoard: event files in FOLDER/tensorboard/RUN, seen with `tensorboard --logdir FOLDER/tensorboard`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anysize.experiment.tracking import TRACKERS, About, How
from anysize.export.extras import import_extra


@TRACKERS.register("tensorboard")
class TensorBoard:
    """Writes scalars, and the recipe as text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        import_extra("tensorboard", "track")
        self._module = import_extra("torch.utils.tensorboard", "track")
        self._writer: Any = None

    def start(self, about: About) -> None:
        # What an earlier process has written behind the step where the run goes on is hidden.
        purge = about.step + 1 if about.step else None
        self._writer = self._module.SummaryWriter(str(self._folder / about.title), purge_step=purge)
        self._writer.add_text("recipe", "\n".join(f"    {line}" for line in about.text.splitlines()), about.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, how: How) -> None:
        self._writer.close()
