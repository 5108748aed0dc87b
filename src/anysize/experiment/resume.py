"""A run goes on: from which of its checkpoints, and with which rows of its tables."""

from anysize.registry import UserError, counted, some_of
from anysize.reports import run_files
from anysize.training.checkpoint.store import BEST, LAST, checkpoint_to_resume, is_best_name, remove_newer
from anysize.training.loop import finish_writing, save
from anysize.training.parts import Parts
from anysize.training.state import TrainState


def resume(parts: Parts, state: TrainState, resume_from: str, *, allow_changes: bool) -> bool:
    """Let the state go on from a checkpoint; whether there is one.

    Raises:
        UserError: the checkpoint that was asked for is not there, or the number of training images has changed.
    """
    path = checkpoint_to_resume(parts.checkpoints, resume_from)
    if path is None:
        return False
    before, now = state.load(path)["images"], parts.description["images"]
    if before != now and not allow_changes:
        raise UserError(
            f"the run was trained on {counted(before, 'image')} and the data now has {now:,}; give the data it began "
            "with, or go on with --allow-changes"
        )
    if is_best_name(resume_from):
        state.progress.start_epoch()  # it was written at the end of one
    elif resume_from != LAST and parts.world.main:
        remove_newer(parts.checkpoints, resume_from)
    return True


def make_last(parts: Parts, state: TrainState) -> None:
    """Let the state be the last save: a run that went on from `best` goes on from there."""
    save(parts, state, replace=True)
    finish_writing(parts)
    if parts.world.main:
        remove_newer(parts.checkpoints, BEST)


def restore_metrics(parts: Parts, state: TrainState) -> None:
    """Write the rows of the epochs that are done as the checkpoint has them, and say where the file had others; what
    there is of steps behind it goes."""
    path = parts.log.folder / run_files.METRICS
    try:
        written = run_files.read_rows(path)
    except OSError:  # writing it anew says why
        written = []
    if differ := state.history.merge(written, state.progress.epoch):
        epochs = f"epoch{'s' * (len(differ) > 1)} {some_of([*map(str, differ)])}"
        parts.log.warning(
            f"{path} had other figures than the checkpoint, or none, for {epochs}: those of the checkpoint stand there "
            "again"
        )
    parts.log.table(state.history.rows)
    parts.log.cut_steps(state.progress.step)
