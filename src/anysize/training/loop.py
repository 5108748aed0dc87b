"""The training loop, from the first batch to the last validation.

    measure the largest step, so that too little memory shows at once
    for epoch in the epochs left:
        for batch in loader(plan.batches(epoch)[steps done:]):      # batch.size, batch.copies, batch.indices
            apply(regime(progress))                                 # lr, momentum, ...: a pure function
            loss = task.loss(model(batch.images), batch.targets)    # in chunks
            guard(loss); backward; guard(gradient); clip, smooth; step
            record; save when it is time or a signal asked for it
        save; validate a calibrated copy; save the best; report

It never asks which task it trains. Randomness inside a step (dropout, mixup) is seeded by (seed, step), and order and
augmentation by the plan, so that a run that is stopped anywhere and resumed ends with the same bits.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.registry import UserError
from anysize.reports.run_log import RunLog
from anysize.sizes.plan import BatchPlan
from anysize.tasks.base import Task
from anysize.training.gradients import GradientSmoothing, copies_factor, cut, gradient_norm, scale_gradients
from anysize.training.guards import Interrupted, StopRequest, check_finite, out_of_memory_says
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.progress import Progress, RunLength
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.training.store import CheckpointStore


@dataclasses.dataclass(frozen=True)
class Validation:
    """Metrics of a validation and the tensors, calibrated where sizes are mixed, that they were measured with."""

    metrics: dict[str, float]
    tensors: dict[str, Tensor]
    size: int
    calibrated: bool


@dataclasses.dataclass
class Parts:
    """What the loop runs on."""

    model: nn.Module
    task: Task
    plan: BatchPlan
    loader: PlanLoader
    optimizer: RegimeOptimizer
    training: TrainingSettings
    length: RunLength
    flops: Callable[[int], int]
    """FLOPs, forward and backward, of one image of a size."""
    validate: Callable[[StopRequest], Validation]
    store: CheckpointStore
    log: RunLog
    describe: Callable[[int], str]
    """Names a sample of the training set."""
    report: Callable[[], object]
    device: torch.device

    def __post_init__(self) -> None:
        settings: OptimizerSettings = self.optimizer.settings
        self.smoothing = GradientSmoothing(settings.gradient_smoothing) if settings.gradient_smoothing else None
        self.forward = compiled(self.model, self.plan, self.length, self.training)
        half = self.training.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    @property
    def memory_format(self) -> torch.memory_format:
        """Order of images in memory."""
        return torch.channels_last if self.training.channels_last else torch.contiguous_format

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self.training.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.training.precision))


def fit(parts: Parts, progress: Progress, stop: StopRequest) -> Progress:
    """Train from `progress` to the end of the run.

    Raises:
        Interrupted: a signal asked to stop; the state was saved.
        Diverged: the loss or the gradient is not finite; the last good checkpoint is kept.
        UserError: out of memory, a full disk.
    """
    if parts.smoothing:
        parts.smoothing.norm = progress.smoothing_norm
    parts.scaler.load_state_dict(progress.scaler or parts.scaler.state_dict())
    try_largest_step(parts)
    for epoch in range(progress.epoch, len(parts.length.steps)):
        train_epoch(parts, progress, stop)
        row = summary(parts, progress)
        if epoch + 1 == len(parts.length.steps) or (epoch + 1) % parts.training.validate_every == 0:
            parts.store.save(parts.model, parts.optimizer, progress)  # a signal during validation loses nothing
            row |= validate(parts, progress, stop)
        progress.start_epoch()
        parts.store.save(parts.model, parts.optimizer, progress)
        parts.log.epoch(row)
        parts.report()
    return progress


def train_epoch(parts: Parts, progress: Progress, stop: StopRequest) -> None:
    """The steps of the epoch that `progress` is in that are left, saving when it is time or a signal asks for it.

    Raises:
        Interrupted, Diverged, UserError: as `fit`.
    """
    done, steps = progress.step_in_epoch, parts.length.steps[progress.epoch]
    batches = parts.plan.batches(progress.epoch)[done:steps]
    parts.model.train()
    saved, clock = time.monotonic(), time.perf_counter()
    for batch in parts.loader.load(batches):
        progress.lr = float(parts.optimizer.apply(parts.length.regime_epoch(progress))["lr"])
        metrics = train_step(parts, progress, batch)
        now = time.perf_counter()
        record(progress, batch, metrics, parts.flops(batch.size), now - clock)
        progress.step_in_epoch = done + batch.step + 1  # a batch of damaged files alone is passed over
        clock = now
        show(parts, progress, batch, metrics)
        if stop:
            parts.store.save(parts.model, parts.optimizer, progress)
            raise Interrupted(f"saved at epoch {progress.epoch + 1}, step {progress.step}")
        if time.monotonic() - saved >= 60 * parts.training.checkpoint_minutes:
            parts.store.save(parts.model, parts.optimizer, progress)
            saved, clock = time.monotonic(), time.perf_counter()  # saving is not training time


def validate(parts: Parts, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Validate, save the best; returns what the validation adds to the epoch's row of `metrics.csv`."""
    validation = parts.validate(stop)
    score = validation.metrics[parts.task.best]
    if progress.best is None or score > progress.best:
        progress.best = score
        parts.store.save_best(validation.tensors, progress, validation.metrics)
    metrics = {f"validation_{name}": value for name, value in validation.metrics.items()}
    return {**metrics, "validation_size": validation.size, "validation_calibrated": validation.calibrated}


def train_step(parts: Parts, progress: Progress, batch: LoadedBatch) -> dict[str, float]:
    """One step of the optimizer; returns the batch's metrics, `loss` and `gradient_norm` among them.

    Raises:
        Diverged: before the weights are touched.
    """
    task, optimizer, settings = parts.task, parts.optimizer, parts.optimizer.settings
    torch.manual_seed((parts.training.seed << 40) ^ progress.step)
    images = batch.images.to(parts.device, non_blocking=True, memory_format=parts.memory_format)
    targets = batch.targets.to(parts.device, non_blocking=True)
    images, targets = task.mix(images, targets)
    factor = adaptive_factor(parts, progress, batch, images, targets)

    def guard(name: str, value: float) -> None:
        if not math.isfinite(value):  # listing the samples costs: only when there is something to say
            samples = [parts.describe(int(i)) for i in batch.indices]
            check_finite(name, value, progress.epoch, progress.step + 1, batch.size, samples)

    metrics: dict[str, float] = {}
    optimizer.torch.zero_grad(set_to_none=True)
    for part in cut(len(images), parts.training.chunks):
        with parts.autocast():
            outputs = parts.forward(images[part])
            loss = task.loss(outputs, targets[part])
        share = len(outputs) / len(images)
        scalars = {"loss": loss, **task.step_metrics(outputs.detach(), targets[part])}
        values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()  # one transfer
        guard("loss", values[0])
        scaled: Tensor = parts.scaler.scale(loss * (share * factor))
        torch.autograd.backward(scaled)
        for name, value in zip(scalars, values, strict=True):
            metrics[name] = metrics.get(name, 0.0) + value * share

    parts.scaler.unscale_(optimizer.torch)
    norm = float(gradient_norm(optimizer.parameters))
    metrics["gradient_norm"] = norm
    if math.isfinite(norm):
        scale = settings.clip_norm / norm if 0 < settings.clip_norm < norm else 1.0
        if parts.smoothing:
            scale *= parts.smoothing.factor(norm * scale)
            progress.smoothing_norm = parts.smoothing.norm
        if scale != 1.0:
            scale_gradients(optimizer.parameters, scale)
    elif not parts.scaler.is_enabled():  # float16's scaler skips such a step by itself and lowers its scale
        guard("gradient norm", norm)
    parts.scaler.step(optimizer.torch)
    parts.scaler.update()
    progress.scaler = parts.scaler.state_dict()
    return metrics


def adaptive_factor(parts: Parts, progress: Progress, batch: LoadedBatch, images: Tensor, targets: Tensor) -> float:
    """What the loss of a batch with copies is multiplied by (adaptive gradient scaling); measured now and then."""
    every = parts.optimizer.settings.adapt_copies
    if not every or batch.copies == 1:
        return 1.0
    size = str(batch.size)
    seen = progress.copies_steps.get(size, 0)
    if seen % every == 0:
        progress.copies_factors[size] = copies_factor(parts.model, parts.task.loss, images, targets, batch.copies)
    progress.copies_steps[size] = seen + 1
    return progress.copies_factors[size]


def record(progress: Progress, batch: LoadedBatch, metrics: dict[str, float], flops: int, seconds: float) -> None:
    """Count a step that was made."""
    count = len(batch.images)
    for name, value in metrics.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value * count
    progress.step += 1
    progress.images += count
    progress.epoch_images += count
    progress.flops += flops * count
    progress.seconds += seconds
    progress.epoch_seconds += seconds


def show(parts: Parts, progress: Progress, batch: LoadedBatch, metrics: dict[str, float]) -> None:
    """Hand the step to the live line."""
    parts.log.step(
        progress.epoch + 1,
        progress.step_in_epoch,
        parts.length.steps[progress.epoch],
        batch.size,
        loss=metrics["loss"],
        metrics={parts.task.best: lambda: progress.means()[parts.task.best]},
        lr=progress.lr,
        images_per_second=lambda: progress.epoch_images / max(progress.epoch_seconds, 1e-9),
        seconds_left=lambda: (parts.length.flops - progress.flops) * progress.seconds / max(progress.flops, 1),
    )


def summary(parts: Parts, progress: Progress) -> dict[str, Any]:
    """The row of `metrics.csv` for the epoch that was just trained."""
    counts = parts.plan.counts(progress.epoch)
    trained = {
        part.size: min(samples, steps * part.batch_size * parts.plan.world_size) for part, steps, samples in counts
    }
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        **{f"train_{name}": value for name, value in progress.means().items()},
        "lr": progress.lr,
        "images": progress.images,
        "images_per_second": progress.epoch_images / max(progress.epoch_seconds, 1e-9),
        "flops": progress.flops,
        "seconds": progress.seconds,
        "sizes": {size: samples / sum(trained.values()) for size, samples in trained.items() if samples},
    }


def distinct_shapes(plan: BatchPlan, length: RunLength, chunks: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Input shapes of a run: (images in a chunk, size) with the (samples, copies) of their batch."""
    shapes: dict[tuple[int, int], tuple[int, int]] = {}
    for epoch in range(len(length.steps)):
        for part, steps, _ in plan.counts(epoch):
            if steps:
                images = part.batch_size * part.copies
                for piece in cut(images, chunks):
                    shapes[piece.stop - piece.start, part.size] = (part.batch_size, part.copies)
    return shapes


def try_largest_step(parts: Parts) -> None:
    """One forward and backward at the largest shape, so that running out of memory happens before the first epoch.

    Running statistics are put back and gradients thrown away.

    Raises:
        UserError: out of memory; names the shape.
    """
    shapes = distinct_shapes(parts.plan, parts.length, parts.training.chunks)
    images, size = max(shapes, key=lambda shape: shape[0] * shape[1] ** 2)
    channels = parts.loader.source.channels
    buffers = [(buffer, buffer.clone()) for buffer in parts.model.buffers()]
    parts.model.train()
    with out_of_memory_says(size, *shapes[images, size], parts.training.chunks):
        inputs = torch.zeros(images, channels, size, size, device=parts.device)
        inputs = inputs.contiguous(memory_format=parts.memory_format)
        with parts.autocast():
            outputs = parts.forward(inputs)
        torch.autograd.backward(outputs.float().square().mean())
    parts.optimizer.torch.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)


def compiled(model: nn.Module, plan: BatchPlan, length: RunLength, training: TrainingSettings) -> Callable[..., Tensor]:
    """The model as the loop calls it: compiled, once for each shape, if the recipe says so.

    Raises:
        UserError: more distinct shapes than training.compile_shapes allows.
    """
    if not training.compile:
        return model
    shapes = distinct_shapes(plan, length, training.chunks)
    if len(shapes) > training.compile_shapes:
        raise UserError(
            f"this run has {len(shapes)} distinct input shapes and training.compile would compile the model for each; "
            f"training.compile_shapes allows {training.compile_shapes}: raise it, use fewer sizes, or do not compile"
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, len(shapes) + 2)
    model_by_shape: Callable[..., Tensor] = torch.compile(model, dynamic=False)
    return model_by_shape
