"""Saving a run beside its folder, where that was moved, deleted or taken over while it trained."""

import dataclasses
import itertools
import os
from pathlib import Path

from anysize.recipe import Recipe, dump
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.training.checkpoint.files import LostFolder
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.loop import save
from anysize.training.parts import Parts
from anysize.training.state import TrainState


def saved_beside(parts: Parts, state: TrainState, recipe: Recipe, lost: LostFolder) -> LostFolder:
    """Save the state to a new folder beside the one that was `lost`, which all processes noticed together.

    Returns:
        The error that ends the run: it says where the state is, or why it could not be saved.
    """
    folder: Path = parts.world.share(_free(parts.log.folder))
    there = dataclasses.replace(parts, checkpoints=folder / run_files.CHECKPOINTS, writer=CheckpointWriter())
    state.progress.best = None  # `best` went with the folder: the next validation writes one
    try:
        save(there, state)
        with parts.world.together():
            if parts.world.main:
                run_files.write_recipe(folder, dump(recipe))
                run_files.write_rows(folder / run_files.METRICS, state.history.rows)
    except UserError as error:
        return LostFolder(f"{lost}, and what it has trained could not be saved beside it: {error}")
    return LostFolder(f"{lost}; it is saved in {folder}, and goes on from there with anysize train {folder}")


def _free(folder: Path) -> Path:
    """A name beside a run folder that is not taken."""
    first = folder.with_name(f"{folder.name}.saved-{os.getpid()}")
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())
