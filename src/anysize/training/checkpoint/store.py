"""The checkpoints of a run: `last`, `previous` and `best` in its `checkpoints` folder."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anysize.registry import UserError
from anysize.training.checkpoint.files import (
    Checkpoint,
    DamagedCheckpoint,
    find_damaged,
    load_model,
    model_tensors,
    read_checkpoint,
    write_checkpoint,
)
from anysize.training.guards import Diverged
from anysize.training.length import Progress
from anysize.training.optimizer import RegimeOptimizer

NAMES = ("last", "previous", "best")


class CheckpointStore:
    """Saves and restores; `description` (model, preprocessing, task) goes into every checkpoint."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.description = description

    def save(self, model: nn.Module, optimizer: RegimeOptimizer, progress: Progress, *, replace: bool = False) -> None:
        """Write `last`; what was `last` becomes `previous`, or is replaced where it holds the same weights (`replace`).

        Raises:
            Diverged: the weights are not finite; the checkpoints that are there are kept.
            UserError: the disk is full or refuses.
        """
        damaged = find_damaged(model)
        if damaged:
            raise Diverged(
                f"{damaged} is not finite after step {progress.step}; the checkpoints written before are kept: lower "
                "optimizer.lr or set optimizer.clip_norm, and go on with --allow-changes"
            )
        state = {**self.description, "progress": progress.to_dict(), "optimizer": optimizer.name}
        checkpoint = Checkpoint(model_tensors(model), optimizer.state(), state)
        write_checkpoint(self.folder / "last", checkpoint, keep=None if replace else self.folder / "previous")

    def save_best(self, tensors: dict[str, Tensor], progress: Progress, metrics: dict[str, float]) -> None:
        """Write `best`: the tensors that were validated and how well they did."""
        state = {**self.description, "progress": progress.to_dict(), "metrics": metrics}
        write_checkpoint(self.folder / "best", Checkpoint(tensors, {}, state))

    def find(self, name: str = "last") -> Path | None:
        """The folder of a checkpoint; where a crash fell between two renames, the one before stands for `last`."""
        for candidate in (name, ".last.old", "previous") if name == "last" else (name,):
            if (self.folder / candidate).is_dir():
                return self.folder / candidate
        return None

    def to_resume(self, name: str) -> Path | None:
        """The checkpoint that a run goes on from: `last`, `previous`, or for `never` and where there is none yet None.

        Raises:
            UserError: `previous` was asked for and is not there.
        """
        path = None if name == "never" else self.find(name)
        if path is None and name == "previous":
            raise UserError(f"{self.folder} has no checkpoint {name!r}; leave --resume out to start or to go on")
        return path

    def damaged(self, path: Path, error: DamagedCheckpoint) -> DamagedCheckpoint:
        """What is damaged about the checkpoint `path`, with `previous` or `last` as the remedy where it is there."""
        other = "last" if path.name == "previous" else "previous"
        remedy = "no other checkpoint is left: start again with --resume never"
        if (self.folder / other).is_dir():
            remedy = f"go on from the other save with --resume {other}"
        return DamagedCheckpoint(f"{error}; {remedy}")

    def restore(self, path: Path, model: nn.Module) -> tuple[Progress, Checkpoint]:
        """Load the weights of a checkpoint into `model`; return its progress and the rest of it.

        Raises:
            DamagedCheckpoint: names the damaged file and offers `previous` where there is one.
            UserError: a checkpoint of another model, or one that was never trained here.
        """
        try:
            checkpoint = read_checkpoint(path)
        except DamagedCheckpoint as error:
            raise self.damaged(path, error) from None
        if "progress" not in checkpoint.state:
            raise UserError(
                f"{path} holds weights alone, as anysize import writes them, and no training to go on with; train from "
                "them with --model.weights and another run folder"
            )
        load_model(model, checkpoint.model, path)
        known = {field.name for field in dataclasses.fields(Progress)}
        progress = Progress(**{k: v for k, v in checkpoint.state["progress"].items() if k in known})
        return progress, checkpoint


def resume(
    store: CheckpointStore, name: str, model: nn.Module, optimizer: RegimeOptimizer, *, allow_changes: bool = False
) -> Progress | None:
    """Restore model, optimizer and progress from `last` or `previous`; None for `never` and where there is none yet.

    Raises:
        UserError: `previous` was asked for and is not there, or the number of training images has changed.
    """
    path = store.to_resume(name)
    if path is None:
        return None
    progress, checkpoint = store.restore(path, model)
    before, now = checkpoint.state["images"], store.description["images"]
    if before != now and not allow_changes:
        raise UserError(
            f"the run was trained on {before:,} images and the data now has {now:,}; give the data it began with, or "
            "go on with --allow-changes"
        )
    optimizer.load_state(checkpoint.state["optimizer"], dict(checkpoint.optimizer))
    if name == "previous":  # it must not be replaced by what it was chosen over, which may be damaged
        for other in ("last", ".last.old"):
            shutil.rmtree(store.folder / other, ignore_errors=True)
    return progress
