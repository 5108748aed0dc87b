"""The best checkpoints of a run: which validation is kept, and as which of them."""

import math
from pathlib import Path

from anysize.models.checks import first_not_finite
from anysize.registry import UserError
from anysize.training.checkpoint.files import Checkpoint, read_state
from anysize.training.checkpoint.store import best_name, best_names, close_gaps
from anysize.training.guards import Diverged, way_on
from anysize.training.parts import Parts, Validation
from anysize.training.state import TrainState


def is_best(state: TrainState, score: float) -> bool:
    """Whether a validation beats all before it, which is noted; on all processes alike."""
    progress = state.progress
    beats = progress.best is None or math.isnan(progress.best) or score > progress.best
    progress.best = score if beats else progress.best
    return beats


def keep_best(parts: Parts, state: TrainState, validation: Validation, *, beats: bool) -> None:
    """Write what was validated as `best` where it `beats` all before it, or with training.keep_best as one behind it.

    Raises:
        Diverged: a tensor is not finite.
        UserError: the disk is full or refuses.
    """
    most, step = parts.training.keep_best, state.progress.step
    place = 0
    if most > 1:
        scores = kept_scores(parts.checkpoints, parts.task.best, step)
        score = validation.metrics[parts.task.best]
        place = 0 if beats else max(1, sum(not score > other for other in scores))
    elif not beats:
        return
    if place >= most:
        return
    if damaged := first_not_finite(validation.tensors):
        advice = way_on(parts.checkpoints, state.recorder.last_sane(step + 1))
        raise Diverged(f"{damaged} is not finite after step {step}, which is not kept as best; {advice}")
    said = {**parts.description, "progress": state.progress.state_dict(), "metrics": validation.metrics}
    said["history"] = state.history.state_dict()
    best, folder = Checkpoint({"model": validation.tensors}, said), parts.checkpoints / best_name(place)
    behind = most - place - 1
    if behind:
        parts.writer.write(folder, best, parts.checkpoints / best_name(place + 1), kept=behind, changes=False)
    else:
        parts.writer.write(folder, best, changes=False)


def kept_scores(checkpoints: Path, metric: str, step: int) -> list[float]:
    """The scores of the best checkpoints that were made before a step, the best first; the others are removed.

    A run that was killed behind a validation makes that validation again, and one that goes on from an earlier save
    may never come to those that were made behind it. What is left is named without gaps, as a kill may leave them.
    """
    scores = []
    sound = []
    for name in best_names(checkpoints):
        try:
            said = read_state(checkpoints / name)
            score, made = float(said["metrics"][metric]), int(said["progress"]["step"])
        except (UserError, KeyError, TypeError, ValueError):
            continue
        if made < step:
            scores.append(score)
            sound.append(name)
    close_gaps(checkpoints, sound)
    return scores
