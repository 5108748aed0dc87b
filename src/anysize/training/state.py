"""All that changes while a run trains, in one place: saved, restored and compared part by part.

A checkpoint is written by `TrainState.save` and read by `TrainState.load`, and in no other way. A part that is added to
`parts` is saved, restored, and covered by the test that resumes a run, by itself.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anysize.models.checks import first_not_finite
from anysize.registry import UserError, in_a_line
from anysize.training.averaging import AveragedWeights
from anysize.training.checkpoint.files import (
    Checkpoint,
    DamagedCheckpoint,
    load_model,
    read_checkpoint,
    write_checkpoint,
)
from anysize.training.checkpoint.store import with_remedy
from anysize.training.gradients import AdaptiveCopies, ControlVariables, GradientSmoothing
from anysize.training.guards import Diverged, way_on
from anysize.training.history import History
from anysize.training.micro_batches import MicroBatches
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.recorder import Recorder
from anysize.training.replicas import Replicas
from anysize.training.size_weights import SizeWeights, VarianceWeights
from anysize.training.step_rows import StepRows


@dataclasses.dataclass
class Progress:
    """How far a run is; `images` and `flops` are those of all processes."""

    epoch: int = 0
    """Epochs that are done, validation included."""
    step_in_epoch: int = 0
    step: int = 0
    images: int = 0
    flops: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    epoch_waiting: float = 0.0
    """Seconds of the epoch in which the device waited for images."""
    best: float | None = None

    def start_epoch(self) -> None:
        """Count the epoch that is done."""
        self.epoch += 1
        self.step_in_epoch = self.epoch_images = 0
        self.epoch_seconds = self.epoch_waiting = 0.0

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready; floats keep every bit."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, state.get(field.name, field.default))


class StatePart(Protocol):
    """A part of the state: tensors and JSON-ready values by name."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclasses.dataclass
class TrainState:
    """Model, optimizer, and everything else that a step changes.

    `scaler` is float16's loss scaling (disabled in other precisions), `smoothing` that of gradients (None: off),
    `copies` the adaptive scaling of copies, `control` the control variables of online norms, `recorder` the sums of the
    epoch, `history` the rows of the epochs before, `rows` the beginning of the next row of `steps.csv`, `replicas` the
    buffers of all processes' models, `micro_batches` the number of parts of a batch, `averaged` the averaged weights
    (None: off), `size_weights` the weights of gradients by image size (None: off).
    """

    model: nn.Module
    optimizer: RegimeOptimizer
    scaler: torch.amp.GradScaler
    smoothing: GradientSmoothing | None
    copies: AdaptiveCopies
    control: ControlVariables
    recorder: Recorder
    replicas: Replicas
    micro_batches: MicroBatches
    averaged: AveragedWeights | None = None
    size_weights: SizeWeights | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    history: History = dataclasses.field(default_factory=History)
    rows: StepRows = dataclasses.field(default_factory=StepRows)

    def parts(self) -> dict[str, StatePart]:
        """The parts that a checkpoint holds, by name."""
        parts: dict[str, StatePart | None] = {
            "model": self.model,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "scaler": self.scaler if self.scaler.is_enabled() else None,
            "smoothing": self.smoothing,
            "copies": self.copies,
            "control": self.control,
            "size_weights": self.size_weights if isinstance(self.size_weights, VarianceWeights) else None,
            "recorder": self.recorder,
            "micro_batches": self.micro_batches if self.micro_batches.auto else None,
            "progress": self.progress,
            "history": self.history,
            "rows": self.rows,
            "replicas": self.replicas if self.replicas.world.size > 1 else None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate: that of the averaged weights where there are some."""
        return self.averaged.model if self.averaged else self.model

    def save(
        self,
        folder: Path,
        description: Mapping[str, Any],
        *,
        keep: Path | None = None,
        write: Callable[[Path, Checkpoint, Path | None], object] = write_checkpoint,
    ) -> None:
        """Write a checkpoint to `folder`; the one that was there becomes `keep`, or goes once it is replaced.

        `description` is what else the checkpoint says of itself: the model's spec, its preprocessing, the task.
        `write` is given the tensors themselves, which the next step changes.

        Raises:
            Diverged: weights, averaged ones or the optimizer's state are not finite; what was written before stays.
            UserError: the disk is full or refuses.
        """
        tensors: dict[str, dict[str, Tensor]] = {}
        values: dict[str, dict[str, Any]] = {}
        for name, part in self.parts().items():
            held = {**part.state_dict(), **self.replicas.reported.get(name, {})}
            tensors[name] = {key: value for key, value in held.items() if isinstance(value, Tensor)}
            if rest := {key: value for key, value in held.items() if not isinstance(value, Tensor)}:
                values[name] = rest
        every = {f"{name} of {part}": value for part, held in tensors.items() for name, value in held.items()}
        if damaged := first_not_finite(every):
            step = self.progress.step
            raise Diverged(
                f"{damaged} is not finite after step {step}, which is not saved; "
                f"{way_on(folder.parent, self.recorder.last_sane(step + 1))}"
            )
        write(folder, Checkpoint(tensors, {**description, **values}), keep)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take over a checkpoint; returns all that its `state.json` says.

        A part that it has not starts as it is: averaged weights begin with the model's.

        Raises:
            DamagedCheckpoint: names the damaged file and offers another checkpoint where there is one.
            UserError: a checkpoint of another model, or one that was never trained here.
        """
        try:
            checkpoint = read_checkpoint(folder)
        except DamagedCheckpoint as error:
            raise with_remedy(folder, error) from None
        if "progress" not in checkpoint.state:
            raise UserError(
                f"{folder} holds weights alone, as anysize import writes them, and no training to go on with; train "
                "from them with --model.weights and another run folder"
            )
        load_model(self.model, checkpoint.model, folder)
        if self.averaged:
            load_model(self.averaged.model, checkpoint.weights, folder)
        name = "progress"
        try:
            values = by_part(checkpoint.state)
            for name, part in self.parts().items():
                if name not in ("model", "averaged") and name in values:
                    part.load_state_dict({**checkpoint.tensors.get(name, {}), **values[name]})
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if isinstance(error, (UserError, torch.OutOfMemoryError)):
                raise
            said = f"checkpoint {folder} is damaged: {name} is not what was written: {in_a_line(error)}"
            raise with_remedy(folder, DamagedCheckpoint(said)) from None
        return checkpoint.state


def by_part(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of each part in what a `state.json` of any format says."""
    if state["format"] > 1:
        return {name: values for name, values in state.items() if isinstance(values, dict)}
    old = state["progress"]
    parts = {
        "progress": old,
        "optimizer": {"name": state["optimizer"]},
        "smoothing": {"norm": old["smoothing_norm"]},
        "copies": {"factors": old["copies_factors"], "steps": old["copies_steps"]},
        "control": {"unit": old["gradient_unit"]},
        "recorder": {"sums": old["sums"], "images": old["epoch_images"]},
    }
    return {**parts, "scaler": old["scaler"]} if old["scaler"] else parts
