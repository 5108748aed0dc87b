"""The parts of a training that stay the same from its first step to its last."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.data.waiting import WaitingWatch
from anysize.quantize.settings import QuantizeSettings
from anysize.reports.run_log import RunLog
from anysize.sizes.batch import Batch
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.second_size import SecondSize
from anysize.stopping import StopRequest
from anysize.tasks.base import Outputs, Task
from anysize.training.averaging import AveragedWeights, average_decay
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.dropout import ScheduledDropout
from anysize.training.gradients import AdaptiveCopies, ControlVariables, GradientSmoothing
from anysize.training.length import RunLength
from anysize.training.micro_batches import MicroBatches
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.recorder import Recorder
from anysize.training.replicas import Replicas
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.training.size_weights import GivenWeights, SizeWeights, VarianceWeights
from anysize.training.state import TrainState
from anysize.world import World, autocast


@dataclasses.dataclass(frozen=True)
class Validation:
    """Metrics of a validation and the tensors, calibrated where sizes are mixed, that they were measured with."""

    metrics: dict[str, float]
    tensors: Mapping[str, Tensor]
    size: int
    calibrated: bool


@dataclasses.dataclass(frozen=True)
class Parts:
    """The loop runs on these parts, and changes none of them.

    `forward` is the model as a step calls it, compiled where the recipe says so; within `no_sync` gradients stay those
    of this process. `checkpoints` is their folder, and `description` what each of them says of itself; `writer` writes
    them. `describe` names a sample of the training set. `watch` finds whether images are waited for too long. `second`
    is what is computed of the samples of a step beside its own pass, and `dropout` what lets that of the model follow
    size and epoch.
    """

    forward: Callable[..., Outputs]
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]]
    task: Task
    plan: BatchPlan
    loader: PlanLoader
    training: TrainingSettings
    length: RunLength
    validate: Callable[[nn.Module, StopRequest], Validation]
    checkpoints: Path
    description: Mapping[str, Any]
    log: RunLog
    describe: Callable[[int], str]
    report: Callable[[], object]
    device: torch.device
    world: World = dataclasses.field(default_factory=World)
    writer: CheckpointWriter = dataclasses.field(default_factory=CheckpointWriter)
    quantize: QuantizeSettings = dataclasses.field(default_factory=QuantizeSettings)
    watch: WaitingWatch = dataclasses.field(default_factory=WaitingWatch)
    second: SecondSize = dataclasses.field(default_factory=lambda: SecondSize(0))
    dropout: ScheduledDropout | None = None

    def load(self, batches: Sequence[Batch]) -> Iterator[LoadedBatch]:
        """The batches, each with the size of its step; its images are at the second size where they are needed so."""
        if not self.second:
            yield from self.loader.load(batches)
            return
        wanted = [dataclasses.replace(batch, size=self.second.loaded(batch.size)) for batch in batches]
        for loaded in self.loader.load(wanted):
            yield dataclasses.replace(loaded, size=batches[loaded.step].size)

    def steps_by_size(self, epoch: int) -> Mapping[int, int]:
        """Steps of an epoch by their size."""
        return _steps_by_size(self.plan, epoch)

    def images_of_all(self, epoch: int, step: int, own: int) -> int:
        """Images that all processes train in a step of an epoch, of which this one trains `own`."""
        return own if self.world.size == 1 else _images_of_steps(self.plan, epoch)[step]

    def fewest_images(self, epoch: int, step: int, batch: LoadedBatch) -> int:
        """Images that each process trains at least in the step of `batch`, if no file is damaged.

        All processes cut their parts of a step into as many chunks, since synchronised norms meet in each.
        """
        if self.world.size == 1:
            return len(batch.images)
        return self.images_of_all(epoch, step, 0) // batch.copies // self.world.size * batch.copies

    @property
    def memory_format(self) -> torch.memory_format:
        """Order of images in memory."""
        return torch.channels_last if self.training.channels_last else torch.contiguous_format

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        return autocast(self.device, self.training.precision)


@functools.lru_cache(maxsize=2)
def _images_of_steps(plan: BatchPlan, epoch: int) -> list[int]:
    return [images for _, images in plan.step_images(epoch)]


@functools.lru_cache(maxsize=2)
def _steps_by_size(plan: BatchPlan, epoch: int) -> dict[int, int]:
    steps: dict[int, int] = {}
    for part, count, _ in plan.counts(epoch):
        steps[part.size] = steps.get(part.size, 0) + count
    return steps


def size_weights(settings: OptimizerSettings, optimizer: RegimeOptimizer, device: torch.device) -> SizeWeights | None:
    """The weights of gradients by size that the settings ask for; None: all alike."""
    if settings.weigh_sizes:
        return VarianceWeights(optimizer.names, device)
    given = {int(size): weight for size, weight in settings.size_weights.items()}
    return GivenWeights(given) if given else None


def new_state(
    model: nn.Module,
    optimizer: RegimeOptimizer,
    training: TrainingSettings,
    device: torch.device,
    world: World,
    total_batch: int,
) -> TrainState:
    """The state of a run before its first step; `model` is on `device`, `total_batch` that of all processes."""
    smoothing = optimizer.settings.gradient_smoothing
    averaged = None
    if every := training.average_steps:
        decay = average_decay(training.average_decay, every, total_batch, training.epochs)
        averaged = AveragedWeights(model, every, decay)
    models = {"model": model, **({"averaged": averaged.model} if averaged else {})}
    control = ControlVariables(model)
    return TrainState(
        model=model,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=training.precision == "float16"),
        smoothing=GradientSmoothing(smoothing, device) if smoothing else None,
        copies=AdaptiveCopies(optimizer.settings.adapt_copies, device),
        control=control,
        recorder=Recorder(device, training.log_every, world),
        micro_batches=MicroBatches(model, training.chunks, auto=training.micro_batches == "auto"),
        averaged=averaged,
        size_weights=size_weights(optimizer.settings, optimizer, device),
        replicas=Replicas(models, control, world, training.statistics),
    )
