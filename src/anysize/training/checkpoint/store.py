"""The checkpoints of a run, in its folder `checkpoints`: which there are, and which one stands for a name.

`last` is where training is, `previous` the save before it, `previous-2` the one before that where so many are kept,
`best` the best validation, with the weights and statistics that were validated, `best-2` the one behind it where so
many are kept. A copy that was calibrated for a size
lies beside them, and one that was adapted to a size.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from anysize.files import remove
from anysize.registry import UserError, did_you_mean
from anysize.training.checkpoint.files import Checkpoint, DamagedCheckpoint, aside, beside, read_checkpoint

LAST, PREVIOUS, BEST, NEVER = "last", "previous", "best", "never"
_NUMBER = r"(-([2-9]|[1-9]\d+))?"
_EARLIER, _BEST = (re.compile(name + _NUMBER) for name in (PREVIOUS, BEST))


def is_own_name(name: str) -> bool:
    """Whether a checkpoint of this name is written by training.

    >>> [is_own_name(name) for name in ("last", "best", "best-2", "previous", "previous-12", "previous-1", "int8")]
    [True, True, True, True, True, False, False]
    """
    return name == LAST or is_best_name(name) or bool(_EARLIER.fullmatch(name))


def is_best_name(name: str) -> bool:
    """Whether a checkpoint of this name is one of the best."""
    return bool(_BEST.fullmatch(name))


def best_name(place: int) -> str:
    """The name of the best checkpoint at a place, counted from 0.

    >>> best_name(0), best_name(1)
    ('best', 'best-2')
    """
    return f"{BEST}-{place + 1}" if place else BEST


def check_resume(name: str) -> None:
    """Raise a `UserError` for what is no answer to the question where a run goes on."""
    if not is_own_name(name) and name != NEVER:
        raise UserError(f"resume is {name!r}; expected last, previous, previous-2 (and so on), best, best-2 or never")


def find_checkpoint(checkpoints: Path, name: str = LAST) -> Path | None:
    """The folder of the checkpoint `name`, if there is one.

    A crash may fall between the two renames that replace a checkpoint. Then the one that was to be replaced stands for
    it: it has been set aside, or kept as `previous`, or as `best-2`.
    """
    folder = checkpoints / name
    names = earlier_names(checkpoints) if name == LAST else best_names(checkpoints) if name == BEST else []
    earlier = [checkpoints / other for other in names]
    return next((candidate for candidate in (folder, aside(folder), *earlier) if candidate.is_dir()), None)


def checkpoint_names(checkpoints: Path) -> list[str]:
    """Names of the checkpoints that are there."""
    return [path.name for path in sorted(checkpoints.glob("[!.]*")) if path.is_dir()]


def earlier_names(checkpoints: Path) -> list[str]:
    """Names of the saves before the last one that are there, the newest first."""
    return sorted(filter(_EARLIER.fullmatch, checkpoint_names(checkpoints)), key=_number)


def best_names(checkpoints: Path) -> list[str]:
    """Names of the best checkpoints that are there, the best first."""
    return sorted(filter(is_best_name, checkpoint_names(checkpoints)), key=_number)


def close_gaps(checkpoints: Path, names: Sequence[str]) -> None:
    """Remove the best checkpoints but for `names`, in this order, and name those without gaps."""
    for other in {*best_names(checkpoints)} - {*names}:
        with contextlib.suppress(OSError):
            remove(checkpoints / other)
    for place, name in enumerate(names):
        if name != best_name(place):
            with contextlib.suppress(OSError):
                (checkpoints / name).rename(checkpoints / best_name(place))


def checkpoint_to_resume(checkpoints: Path, name: str) -> Path | None:
    """The checkpoint that a run goes on from; None for `never`, and for `last` where there is none yet.

    Raises:
        UserError: another one was asked for and is not there.
    """
    path = None if name == NEVER else find_checkpoint(checkpoints, name)
    if path is None and name not in (LAST, NEVER):
        known = [other for other in checkpoint_names(checkpoints) if is_own_name(other)]
        there = did_you_mean(name, known) if known else "leave --resume out to start or to go on"
        raise UserError(f"{checkpoints} has no checkpoint {name!r}; {there}")
    return path


def remove_newer(checkpoints: Path, name: str) -> None:
    """Remove the saves that are newer than the earlier one `name`, and may be damaged: the next one would keep them.

    For `best` these are all but `last`, which was just written anew from it.
    """
    newer = {other for other in earlier_names(checkpoints) if name == BEST or _number(other) < _number(name)}
    folders = [checkpoints / other for other in newer]
    if name != BEST:
        folders += [checkpoints / LAST, aside(checkpoints / LAST)]
    for folder in folders:
        with contextlib.suppress(OSError):
            remove(folder)


def remove_left_overs(checkpoints: Path) -> None:
    """Remove what a killed process has left of a save: what was half-written, and what was replaced."""
    for left in (*checkpoints.glob(".*.new"), *checkpoints.glob(".*.old")):
        folder = left.with_name(left.name[1 : -len(".new")])
        if is_own_name(folder.name) and (left == beside(folder) or os.path.lexists(folder)):
            with contextlib.suppress(OSError):
                remove(left)


def sound_checkpoints(
    checkpoints: Path, names: Iterable[str], wanted: Callable[[Checkpoint], bool] = lambda checkpoint: True
) -> list[str]:
    """Those of the checkpoints `names` that can be read whole, hold finite values alone and are `wanted`."""
    return [name for name in names if _is_sound(checkpoints / name, wanted)]


def with_remedy(path: Path, error: DamagedCheckpoint) -> DamagedCheckpoint:
    """The error about the checkpoint `path`, which training cannot go on from, with another one as the remedy."""
    saves = [LAST, *earlier_names(path.parent), *best_names(path.parent)]
    others = [name for name in saves if name != path.name and (path.parent / name).is_dir()]
    sound = sound_checkpoints(path.parent, others, lambda checkpoint: "progress" in checkpoint.state)
    remedy = "no other checkpoint is left: start again with --resume never"
    if sound:
        remedy = f"go on from the other save with --resume {sound[0]}"
    return type(error)(f"{error}; {remedy}")


def with_another(path: Path, error: DamagedCheckpoint, say: Callable[[str], str]) -> DamagedCheckpoint:
    """The error about the checkpoint `path` with another one of its run as the remedy, which `say` puts in words."""
    others = [name for name in checkpoint_names(path.parent) if name != path.name]
    first = [name for name in (BEST, LAST) if name in others]
    sound = sound_checkpoints(path.parent, dict.fromkeys([*first, *others]))
    return type(error)(f"{error}; {say(sound[0]) if sound else 'no other checkpoint of it is left, train it again'}")


def _is_sound(path: Path, wanted: Callable[[Checkpoint], bool]) -> bool:
    try:
        return wanted(read_checkpoint(path))
    except UserError:
        return False


def _number(name: str) -> int:
    return int(name.partition("-")[2] or 1)
