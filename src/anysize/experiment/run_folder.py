"""A run folder while it is trained: held by one process, of one recipe, cleared for a new start."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from anysize.experiment import build
from anysize.experiment.owner import TRAINING, Owner, Work, not_written, owner_of, recorded_owner
from anysize.files import open_in_place, remove
from anysize.recipe import Recipe, differences, from_dict, load_recipe, override
from anysize.registry import UserError, counted
from anysize.reports import run_files
from anysize.reports.run_log import RunLog
from anysize.reports.schema import say_once
from anysize.training.checkpoint.files import DamagedCheckpoint, LostFolder, read_state
from anysize.training.checkpoint.store import LAST, find_checkpoint

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


logger = logging.getLogger(__name__)

_LOCK = ".lock"
_held: set[TextIO] = set()
"""Locks of this process. One that it starts by a fork would hold them beyond its end."""


def _let_go() -> None:
    while _held:
        _held.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def made(folder: Path, holds: tuple[str, ...] = (run_files.RECIPE,), work: Work = TRAINING) -> Iterator[None]:
    """Make a folder for the length of a block; what fails before it holds one of these files leaves nothing behind.

    Raises:
        UserError: it cannot be written.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        there = set() if new else set(folder.iterdir())
        folder.mkdir(parents=True, exist_ok=True)
        open_in_place(folder / _LOCK, append=True).close()
        own = _identity_at(folder / _LOCK)
    except OSError as error:
        raise not_written(folder, error, work) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # what others have put there stays
            if not any((folder / name).exists() for name in holds) and _identity_at(folder / _LOCK) == own:
                for path in {folder / name for name in (_LOCK, ".owner", run_files.LOG)} - there:
                    path.unlink(missing_ok=True)
                for path in new:
                    path.rmdir()


@dataclasses.dataclass(frozen=True)
class Held:
    """A run folder that this process holds: `lock` says which file its lock is, None where that cannot be told."""

    folder: Path
    lock: tuple[int, int] | None
    owner: Owner

    def check(self) -> None:
        """Look whether the folder is still this process's; takes some hundredths of a millisecond.

        Raises:
            LostFolder: it was moved, deleted, taken over, or is another run's.
        """
        why = self._lost()
        if why:
            raise LostFolder(f"{self.folder} is no longer the folder of this run: {why}; the run stops")

    def _lost(self) -> str:
        try:
            now = _identity(os.lstat(self.folder / _LOCK))
        except (FileNotFoundError, NotADirectoryError):
            return f"its {_LOCK} was removed" if self.folder.is_dir() else "it was moved or deleted"
        except OSError:
            return ""  # a network that is away for the moment: the write itself will tell
        if self.lock is not None and now != self.lock:
            return "another one was put in its place"
        return self.owner.lost()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identity_at(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(os.lstat(path))
    except OSError:
        return None


@contextlib.contextmanager
def alone_in(folder: Path, work: Work = TRAINING) -> Iterator[Held]:
    """Hold a folder, so that two processes never write one run, or one pack.

    By a lock where the file system has such, and by a record of the process everywhere (`owner`).

    Raises:
        UserError: another process holds it, which is named.
    """
    path = folder / _LOCK
    for last in (False, False, True):
        try:
            file = open_in_place(path)
        except OSError as error:
            raise not_written(folder, error, work) from None
        _held.add(file)
        try:
            locked = _locked(file, folder, work)
            own = _identity(os.fstat(file.fileno()))
            same = own == _identity_at(path)
            if same or last:  # a failed start removes its lock; some file systems have no fixed numbers
                with recorded_owner(folder, locked=locked, work=work) as owner:
                    os.utime(file.fileno())
                    run_files.remove_left_overs(folder, os.fstat(file.fileno()).st_mtime)
                    yield Held(folder, own if same else None, owner)
                return
        finally:
            _held.discard(file)
            file.close()


def _locked(file: TextIO, folder: Path, work: Work) -> bool:
    """Take the lock; whether there are locks. Raises a `UserError` where another process has it."""
    if fcntl is None:
        return False  # Windows has no such locks
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{folder} is being {work.done} by {owner_of(folder)}; wait for it, or give {work.other}"
        ) from None
    except OSError:
        return False  # a file system without locks
    return True


@contextlib.contextmanager
def warnings_into(log: RunLog) -> Iterator[None]:
    """Show the package's warnings, such as damaged files that are left out, as the run's own."""

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.warning(record.getMessage())

    logger, handler = logging.getLogger("anysize"), Forward()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def keep_precision(recipe: Recipe, before: Recipe | None) -> Recipe:
    """The recipe with the precision that the run of `before` has come to, where it leaves the choice open (auto)."""
    if recipe.training.precision != "auto" or before is None:
        return recipe
    return override(recipe, {"training.precision": before.training.precision})


def check_same_recipe(folder: Path, recipe: Recipe, before: Recipe | None) -> None:
    """Raise a `UserError` if the folder holds a run of another recipe, `before`."""
    if changed := _changes(before or recipe, recipe):
        raise UserError(
            f"{folder} holds a run of another recipe: {changed}; give another folder with --out, go on with the new "
            "settings with --allow-changes, or start over with --resume never"
        )


def trained_recipe(folder: Path, resume_from: str) -> Recipe | None:
    """The recipe of the run in a folder that is to go on, None where there is none: that which its checkpoint holds.

    Checkpoints of older versions hold none; then it is that of `recipe.toml`.
    """
    path, file = find_checkpoint(folder / run_files.CHECKPOINTS, resume_from), folder / run_files.RECIPE
    state = {}
    with contextlib.suppress(DamagedCheckpoint):  # told where it is read whole, with a remedy
        state = read_state(path) if path else {}
    if "recipe" in state:
        return from_dict(state["recipe"], f"{path}/state.json")
    trained = any((folder / run_files.CHECKPOINTS).glob("*"))
    return load_recipe(str(file)) if trained and file.exists() else None


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe that a run folder shows; None where that is missing or cannot be read."""
    with contextlib.suppress(UserError):
        return load_recipe(str(folder / run_files.RECIPE))
    return None


def not_as_trained(folder: Path, before: Recipe | None, resume_from: str) -> str:
    """What is to be said of a `recipe.toml` that is not what the run was trained by: that of its checkpoint counts."""
    if before is None:
        if find_checkpoint(folder / run_files.CHECKPOINTS, resume_from) is None:
            return ""
        return f"nothing in {folder} tells by which settings it was trained: it goes on by those that are given"
    written = read_recipe(folder)
    if written and not _changes(before, written):
        return ""
    how = f"differs from the settings in the checkpoint ({_changes(before, written)})" if written else "is not there"
    return f"{folder / run_files.RECIPE} {how}; those of the checkpoint count, and it is written anew"


def warn_of_changes(folder: Path, recipe: Recipe) -> None:
    """Warn, once a process, where `recipe.toml`, which holds `recipe`, is not what the run was last trained by."""
    with contextlib.suppress(UserError):  # of the checkpoint, if that is what is read
        before = trained_recipe(folder, LAST)
        if before and (changes := _changes(before, recipe)):
            path = folder / run_files.RECIPE
            say_once(f"{path} differs from the settings in the checkpoint ({changes}); {path.name} counts here")


def _changes(before: Recipe, now: Recipe) -> str:
    changed = {key: pair for key, pair in differences(before, now).items() if key not in build.HARMLESS}
    more = f" and {counted(len(changed) - 4, 'more setting')}" if len(changed) > 4 else ""
    return "; ".join(f"{key} was {old!r} and is now {new!r}" for key, (old, new) in [*changed.items()][:4]) + more


def forget_results(folder: Path) -> None:
    """Remove what was measured with weights that are about to change."""
    with contextlib.suppress(OSError):  # writing them anew says what is wrong
        remove(folder / run_files.PREDICTIONS)
    for name in (
        run_files.EVALUATION, run_files.EVALUATION_TABLES, run_files.IMAGE_PREDICTIONS, run_files.CONFUSION,
        run_files.SCALE_POLICY,
    ):  # fmt: skip
        _remove(folder / name)


def clear(folder: Path) -> None:
    """Remove what an earlier run of this package wrote into `folder` but for its log, and nothing else."""
    saved = find_checkpoint(folder / run_files.CHECKPOINTS)
    if (folder / run_files.RECIPE).exists() or (saved and (saved / "state.json").exists()):
        forget_results(folder)
        with contextlib.suppress(OSError):
            remove(folder / run_files.CHECKPOINTS)
        files = run_files.METRICS, run_files.STEPS, run_files.REPORT, run_files.TRACKING
        for name in (run_files.RECIPE, run_files.ENVIRONMENT, *files):
            _remove(folder / name)


def _remove(path: Path) -> None:
    """Remove a file, or warn that it is of another training than the run's; a folder of such a name is not ours."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed, and is of weights that are no more: %s", path, error.strerror or error)
