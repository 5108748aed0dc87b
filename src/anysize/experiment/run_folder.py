"""A run folder while it is trained: held by one process, of one recipe, cleared for a new start."""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from anysize.experiment import build
from anysize.experiment.owner import owner_is_gone, owner_of, recorded_owner
from anysize.recipe import Recipe, differences, load_recipe, override
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.run_log import RunLog

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


logger = logging.getLogger(__name__)

_LOADERS_END = 20.0
"""Seconds in which the loaders of a process that was killed notice it."""


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make the run folder for the length of a block; what fails before it holds a recipe leaves nothing behind.

    Raises:
        UserError: it cannot be written.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        there = set() if new else set(folder.iterdir())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder}: {error.strerror}; give another one with --out"
        ) from None
    try:
        yield
    finally:
        if not (folder / run_files.RECIPE).exists():
            with contextlib.suppress(OSError):  # what others have put there stays
                for path in {folder / name for name in (".lock", ".owner", run_files.LOG)} - there:
                    path.unlink(missing_ok=True)
                for path in new:
                    path.rmdir()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[str]:
    """Hold the run folder, so that two processes never write one run; yields a warning, or nothing.

    By a lock where the file system has such, and by a record of the process everywhere (`owner`).

    Raises:
        UserError: another process holds it, which is named.
    """
    locked = fcntl is not None  # Windows has no such locks
    with (folder / ".lock").open("w") as file:
        end = time.monotonic() + _LOADERS_END
        while locked:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not owner_is_gone(folder) or time.monotonic() > end:  # or its loaders, which are ending, have it
                    raise UserError(
                        f"{folder} is being trained by {owner_of(folder)} (or its loaders are still ending: try again "
                        "in a few seconds); wait for it, or give another --out"
                    ) from None
                time.sleep(0.2)
            except OSError:
                locked = False  # a file system without locks
        with recorded_owner(folder, locked=locked) as taken_over:
            yield taken_over


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


def keep_precision(folder: Path, recipe: Recipe) -> Recipe:
    """The recipe with the precision that the folder's run has come to, where it leaves the choice open (auto)."""
    if recipe.training.precision != "auto" or not _is_trained(folder):
        return recipe
    return override(recipe, {"training.precision": load_recipe(str(folder / run_files.RECIPE)).training.precision})


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise a `UserError` if the folder holds a run of another recipe."""
    if not _is_trained(folder):
        return
    before = load_recipe(str(folder / run_files.RECIPE))
    changed = {key: pair for key, pair in differences(before, recipe).items() if key not in build.HARMLESS}
    if changed:
        shown = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, (old, new) in list(changed.items())[:4])
        raise UserError(
            f"{folder} holds a run of another recipe: {shown}; give another folder with --out, go on with the new "
            "settings with --allow-changes, or start over with --resume never"
        )


def _is_trained(folder: Path) -> bool:
    return (folder / run_files.RECIPE).exists() and any((folder / run_files.CHECKPOINTS).glob("*"))


def forget_results(folder: Path) -> None:
    """Remove what was measured with weights that are about to change."""
    shutil.rmtree(folder / run_files.PREDICTIONS, ignore_errors=True)
    for name in (run_files.EVALUATION, run_files.EVALUATION_TABLES, run_files.SCALE_POLICY):
        _remove(folder / name)


def clear(folder: Path) -> None:
    """Remove what an earlier run of this package wrote into `folder` but for its log, and nothing else."""
    if (folder / run_files.RECIPE).exists():
        forget_results(folder)
        shutil.rmtree(folder / run_files.CHECKPOINTS, ignore_errors=True)
        for name in (run_files.RECIPE, run_files.ENVIRONMENT, run_files.METRICS, run_files.REPORT):
            _remove(folder / name)


def _remove(path: Path) -> None:
    """Remove a file, or warn that it is of another training than the run's."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed, and is of weights that are no more: %s", path, error.strerror or error)
