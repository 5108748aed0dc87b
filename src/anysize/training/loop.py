"""The training loop, from the first batch to the last validation.

    measure the largest step, so that too little memory shows at once
    for epoch in the epochs left:
        for batch in loader(plan.batches(epoch)[steps done:]):      # batch.size, batch.copies, batch.indices
            apply(regime(progress))                                 # lr, momentum, ...: a pure function
            loss = task.loss(model(batch.images), batch.targets)    # in chunks
            guard(loss), backward; guard(gradient); clip, smooth; step
            record; save when it is time or a signal asked for it
        save; validate a calibrated copy; save the best; report

It never asks which task it trains. Randomness inside a step (dropout, mixup) is seeded by (seed, step), and order and
augmentation by the plan, so that a run that is stopped anywhere and resumed ends with the same bits.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.data.random import Stream, random_bits
from anysize.norms.online.norm import online_norms
from anysize.reports.run_log import RunLog
from anysize.sizes.batch_plan import BatchPlan
from anysize.tasks.base import Task, main_logits
from anysize.training.checkpoint.files import find_damaged
from anysize.training.checkpoint.store import CheckpointStore
from anysize.training.gradients import GradientSmoothing, copies_factor, cut, gradient_norm, scale_gradients
from anysize.training.guards import Guard, Interrupted, StopRequest, check_finite
from anysize.training.length import Progress, RunLength
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.training.shapes import compiled, too_few_images, try_largest_step, unchanged_buffers

_NOT_SHOWN = ("loss", "gradient_norm")  # in the live line: the first has a place of its own


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
        self.control = [value for _, norm in online_norms(self.model) for value in (norm.norm.u, norm.norm.v)]

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
    try_largest_step(
        parts.model, parts.forward, parts.autocast, parts.plan, parts.length, parts.training,
        channels=parts.loader.source.channels, device=parts.device, memory_format=parts.memory_format,
    )  # fmt: skip
    parts.optimizer.torch.zero_grad(set_to_none=True)
    for epoch in range(progress.epoch, len(parts.length.steps)):
        train_epoch(parts, progress, stop)
        row, validated = summary(parts, progress), False
        if epoch + 1 == len(parts.length.steps) or (epoch + 1) % parts.training.validate_every == 0:
            parts.store.save(parts.model, parts.optimizer, progress)  # a signal during validation loses nothing
            row |= validate(parts, progress, stop)
            validated = True
        parts.log.epoch(row)  # before the save that ends the epoch: a row too many is removed on resume
        progress.start_epoch()
        parts.store.save(parts.model, parts.optimizer, progress, replace=validated)
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
        if len(batch.indices) < len(batches[batch.step].indices) and lacks_images(parts, batch):
            continue
        regime_epoch = parts.length.regime_epoch(progress.epoch, progress.step_in_epoch)
        progress.lr = float(parts.optimizer.apply(regime_epoch)["lr"])
        metrics = train_step(parts, progress, batch)
        now = time.perf_counter()
        progress.step_in_epoch = done + batch.step + 1  # a batch of damaged files alone is passed over
        progress.flops = parts.length.flops_at(progress.epoch, progress.step_in_epoch)
        record(progress, batch, metrics, now - clock)
        clock = now
        show(parts, progress, batch, metrics)
        if stop:
            parts.store.save(parts.model, parts.optimizer, progress)
            raise Interrupted(f"saved at epoch {progress.epoch + 1}, step {progress.step}")
        if time.monotonic() - saved >= 60 * parts.training.checkpoint_minutes:
            parts.store.save(parts.model, parts.optimizer, progress)
            saved, clock = time.monotonic(), time.perf_counter()  # saving is not training time


def lacks_images(parts: Parts, batch: LoadedBatch) -> bool:
    """Whether damaged files leave a batch too few images to train on, which is said."""
    channels = parts.loader.source.channels
    too_few = too_few_images(parts.model, len(batch.images), batch.size, parts.training.chunks, channels)
    if too_few:
        parts.log.warning(
            f"passed over a batch at {batch.size} px that damaged files left {len(batch.images)} images of: batch norm "
            f"needs two in each of {parts.training.chunks} parts"
        )
    return too_few


def validate(parts: Parts, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Validate, save the best; returns what the validation adds to the epoch's row of `metrics.csv`."""
    validation = parts.validate(stop)
    score = validation.metrics[parts.task.best]
    if progress.best is None or math.isnan(progress.best) or score > progress.best:
        progress.best = score
        parts.store.save_best(validation.tensors, progress, validation.metrics)
    metrics = {f"validation_{name}": value for name, value in validation.metrics.items()}
    return {**metrics, "validation_size": validation.size, "validation_calibrated": validation.calibrated}


def train_step(parts: Parts, progress: Progress, batch: LoadedBatch) -> dict[str, float]:
    """One step of the optimizer; returns the batch's metrics, `loss` and `gradient_norm` among them.

    Raises:
        Diverged: before the weights are touched. The norms' running statistics may have seen the batch by then, hence
            nothing is saved after it.
    """
    optimizer, settings, scaler = parts.optimizer, parts.optimizer.settings, parts.scaler
    torch.manual_seed(int(random_bits(parts.training.seed, 0, progress.step, 0, Stream.STEP)))
    images = batch.images.to(parts.device, non_blocking=True, memory_format=parts.memory_format)
    targets = batch.targets.to(parts.device, non_blocking=True)
    images, targets = parts.task.mix(images, targets)

    def guard(name: str, value: float) -> None:
        if not math.isfinite(value):
            samples = (parts.describe(int(i)) for i in batch.indices)
            check_finite(name, value, progress.epoch, progress.step + 1, batch.size, samples, find_damaged(parts.model))

    factor = adaptive_factor(parts, progress, batch, images, targets, guard)
    optimizer.torch.zero_grad(set_to_none=True)
    follow_gradient_unit(parts, progress, scaler.get_scale() * factor / (len(images) * batch.size**2))
    control = [value.clone() for value in parts.control] if scaler.is_enabled() else []
    metrics = backward(parts, images, targets, factor, guard)
    scaler.unscale_(optimizer.torch)
    norm = float(gradient_norm(optimizer.parameters))
    if math.isfinite(norm):
        metrics["gradient_norm"] = norm
        scale = settings.clip_norm / norm if 0 < settings.clip_norm < norm else 1.0
        if parts.smoothing:
            scale *= parts.smoothing.factor(norm * scale)
            progress.smoothing_norm = parts.smoothing.norm
        if scale != 1.0:
            scale_gradients(optimizer.parameters, scale)
    elif not scaler.is_enabled() or scaler.get_scale() <= 1:
        guard("gradient norm", norm)  # while its scale is large, float16's scaler skips such a step and lowers it
    else:
        for own, value in zip(parts.control, control, strict=True):
            own.copy_(value)
    scaler.step(optimizer.torch)
    scaler.update()
    progress.scaler = scaler.state_dict()
    return metrics


def follow_gradient_unit(parts: Parts, progress: Progress, unit: float) -> None:
    """Bring the control variables of online norms to the unit that the gradients of this step come in.

    They are moving sums of gradients. The loss is a mean over images, and a network that ends in an average over
    positions spreads each image's gradient over them: at another number of images, another size or another scale of
    the loss, gradients are smaller or larger by the ratio of scale / (images x size^2), and so must the sums be.
    """
    if parts.control and progress.gradient_unit not in (None, unit):
        torch._foreach_mul_(parts.control, unit / progress.gradient_unit)
    progress.gradient_unit = unit


def backward(parts: Parts, images: Tensor, targets: Tensor, factor: float, guard: Guard) -> dict[str, float]:
    """Forward and backward in chunks, adding to the gradients; returns the means of the metrics over the batch."""
    metrics: dict[str, float] = {}
    pieces = cut(len(images), parts.training.chunks)
    whole = parts.task.weight(targets) if len(pieces) > 1 else 0
    for part in pieces:
        share = parts.task.weight(targets[part]) / max(1, whole) if len(pieces) > 1 else 1.0
        with parts.autocast():
            outputs = parts.forward(images[part])
            loss = parts.task.loss(outputs, targets[part])
        logits = main_logits(outputs).detach()
        scalars = {"loss": loss, **parts.task.step_metrics(logits, targets[part])}
        values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()  # one transfer
        guard("loss", values[0])
        scaled: Tensor = parts.scaler.scale(loss * (share * factor))
        torch.autograd.backward(scaled)
        for name, value in zip(scalars, values, strict=True):
            metrics[name] = metrics.get(name, 0.0) + value * share
    return metrics


def adaptive_factor(
    parts: Parts, progress: Progress, batch: LoadedBatch, images: Tensor, targets: Tensor, guard: Guard
) -> float:
    """What the loss of a batch with copies is multiplied by (adaptive gradient scaling); measured now and then."""
    every = parts.optimizer.settings.adapt_copies
    if not every or batch.copies == 1:
        return 1.0
    size = str(batch.size)
    seen = progress.copies_steps.get(size, 0)
    if seen % every == 0:

        def norm(some_images: Tensor, some_targets: Tensor) -> float:
            parts.optimizer.torch.zero_grad(set_to_none=True)
            apart = Progress(gradient_unit=progress.gradient_unit)  # the step's own unit is followed later
            with unchanged_buffers(parts.model):
                unit = parts.scaler.get_scale() / (len(some_images) * batch.size**2)
                follow_gradient_unit(parts, apart, unit)
                backward(parts, some_images, some_targets, 1.0, guard)
            return float(gradient_norm(parts.optimizer.parameters))

        progress.copies_factors[size] = copies_factor(norm, images, targets, batch.copies)
    progress.copies_steps[size] = seen + 1
    return progress.copies_factors[size]


def record(progress: Progress, batch: LoadedBatch, metrics: dict[str, float], seconds: float) -> None:
    """Count a step that was made."""
    count = len(batch.images)
    for name, value in metrics.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value * count
    progress.step += 1
    progress.images += count
    progress.epoch_images += count
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
        metrics={name: functools.partial(progress.mean, name) for name in metrics if name not in _NOT_SHOWN},
        lr=progress.lr,
        images_per_second=lambda: progress.epoch_images / max(progress.epoch_seconds, 1e-9),
        seconds_left=lambda: (parts.length.flops - progress.flops) * progress.seconds / max(progress.flops, 1),
    )


def summary(parts: Parts, progress: Progress) -> dict[str, Any]:
    """The row of `metrics.csv` for the epoch that was just trained."""
    samples = {part.size: samples for part, _, samples in parts.plan.counts(progress.epoch)}
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        **{f"train_{name}": progress.mean(name) for name in progress.sums},
        "lr": progress.lr,
        "images": progress.images,
        "images_per_second": progress.epoch_images / max(progress.epoch_seconds, 1e-9),
        "flops": progress.flops,
        "seconds": progress.seconds,
        "sizes": {size: count / sum(samples.values()) for size, count in samples.items() if count},
    }
