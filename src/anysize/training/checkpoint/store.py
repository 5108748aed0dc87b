"""The checkpoints of a run, in its folder `checkpoints`: which there are, and which one stands for a name.

`last` is where training is, `previous` the save before it, `best` the best validation, with the weights and statistics
that were validated. A copy that was calibrated for a size lies beside them.
"""

import contextlib
from pathlib import Path

from anysize.files import remove
from anysize.registry import UserError
from anysize.training.checkpoint.files import DamagedCheckpoint, aside

LAST, PREVIOUS, BEST = "last", "previous", "best"


def find_checkpoint(checkpoints: Path, name: str = LAST) -> Path | None:
    """The folder of the checkpoint `name`, if there is one.

    A crash may fall between the two renames that replace a checkpoint. Then the one that was to be replaced stands for
    it: it has been set aside, or for `last` kept as `previous`.
    """
    folder = checkpoints / name
    candidates = (folder, aside(folder), *([checkpoints / PREVIOUS] if name == LAST else []))
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def checkpoint_names(checkpoints: Path) -> list[str]:
    """Names of the checkpoints that are there."""
    return [path.name for path in sorted(checkpoints.glob("[!.]*")) if path.is_dir()]


def checkpoint_to_resume(checkpoints: Path, name: str) -> Path | None:
    """The checkpoint that a run goes on from: `last`, `previous`, or for `never` and where there is none yet None.

    Raises:
        UserError: `previous` was asked for and is not there.
    """
    path = None if name == "never" else find_checkpoint(checkpoints, name)
    if path is None and name == PREVIOUS:
        raise UserError(f"{checkpoints} has no checkpoint {name!r}; leave --resume out to start or to go on")
    return path


def remove_newer(checkpoints: Path) -> None:
    """Remove `last`, which may be damaged, where a run goes on from `previous`: the next save would keep it as such."""
    for folder in (checkpoints / LAST, aside(checkpoints / LAST)):
        with contextlib.suppress(OSError):
            remove(folder)


def with_remedy(path: Path, error: DamagedCheckpoint) -> DamagedCheckpoint:
    """The error about the damaged checkpoint `path`, with the other save as the remedy where it is there."""
    other = LAST if path.name == PREVIOUS else PREVIOUS
    remedy = "no other checkpoint is left: start again with --resume never"
    if (path.parent / other).is_dir():
        remedy = f"go on from the other save with --resume {other}"
    return DamagedCheckpoint(f"{error}; {remedy}")
