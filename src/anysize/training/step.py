"""One step of the optimizer. It never waits for the device.

    seed; mix the samples among themselves
    for each chunk: forward, loss, backward            # the loss of a chunk weighs what it has of the global batch
                    (with a teacher, or at two sizes: distill.py)
    the gradients of all processes are added up          # by DistributedDataParallel, during the last backward
    is the loss finite, is the gradient?               # on the device: a truth that the host does not ask for
    clip, smooth, weigh by size, step where it is; averaged weights follow
    add the metrics up                                 # on the device, too

A step that is not finite leaves the weights as they are, and so does every step after it, until the host learns of it
at one of the next log points and stops the run.
"""

import contextlib
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from anysize.data.loader import LoadedBatch
from anysize.quantize.aware import share_ranges
from anysize.sizes.shapes import pixels_of
from anysize.tasks.base import main_logits
from anysize.training.distill import Batches, at_own_size, taught_loss
from anysize.training.gradients import chunk_slices, copies_factor, gradient_norm, scale_gradients
from anysize.training.memory import within_memory
from anysize.training.parts import Parts
from anysize.training.recorder import StepRecord
from anysize.training.shapes import unchanged_buffers
from anysize.training.state import TrainState


def train_step(parts: Parts, state: TrainState, batch: LoadedBatch, seed: int) -> None:
    """Train on a batch; what is random within the step (dropout, mixup) follows from `seed`."""
    optimizer, settings, scaler = state.optimizer, state.optimizer.settings, state.scaler
    scale = loss_scale(state)
    step = state.progress.step + 1
    if parts.dropout:
        parts.dropout.apply(batch.size, state.progress.epoch)

    names, metrics, loss, control = within_memory(
        parts, state, len(batch.images), lambda: gradients(parts, state, batch, seed, scale)
    )
    if parts.world.size > 1:
        lost = loss - loss  # 0, or NaN, which is NaN for all
        parts.world.add(lost)
    else:
        lost = loss
    scaler.unscale_(optimizer.torch)

    norm = gradient_norm(optimizer.parameters)
    sound = torch.stack([lost.to(norm.dtype), norm]).isfinite()
    finite = sound[1]
    if scaler.is_enabled():  # while its scale is large, float16's scaler skips such a step and lowers it
        fine = state.recorder.check(step, loss, norm, sound[0] & (finite | (scale > 1))) & finite
    else:
        fine = state.recorder.check(step, loss, norm, sound.all())
    if settings.clip_norm or state.smoothing:
        scale_gradients(optimizer.parameters, gradient_factor(state, norm, fine))
    if state.size_weights:
        steps = parts.steps_by_size(state.progress.epoch)
        state.size_weights.apply(optimizer.parameters, batch.size, steps, fine)
    optimizer.step(fine)
    if scaler.is_enabled():
        state.control.keep(control, finite)
        scaler.update()
    if parts.quantize.aware:
        share_ranges(state.model, parts.world)
    if state.averaged:
        state.averaged.update(state.model, step, restart=optimizer.warming_up)
    values = torch.cat([metrics, norm.to(metrics.dtype)[None]])
    record = StepRecord(state.progress.epoch, step, batch.size, batch.indices)
    state.recorder.add(record, len(batch.images), (*names, "gradient_norm"), values)


def gradients(
    parts: Parts, state: TrainState, batch: LoadedBatch, seed: int, scale: Tensor | float
) -> tuple[tuple[str, ...], Tensor, Tensor, list[Tensor]]:
    """Mix the samples of a batch among themselves, and leave the gradients of its loss.

    Returns:
        What `backward` does, and the control variables of before, where the step may have to be taken back.
    """
    seed_generators(seed, parts.device)
    images = batch.images.to(parts.device, non_blocking=True, memory_format=parts.memory_format)
    targets = batch.targets.to(parts.device, non_blocking=True)
    images, targets = parts.task.mix(images, targets, state.progress.epoch)
    both = at_own_size(parts, images, targets, batch.size, batch.aspect)
    images, targets, larger = both
    epoch, step = state.progress.epoch, state.progress.step_in_epoch
    fewest = parts.fewest_images(epoch, step, batch)
    factor = state.copies.factor(
        batch.size,
        batch.copies,
        lambda: measure_copies(parts, state, images, targets, fewest, batch.copies),
    )
    state.optimizer.torch.zero_grad(set_to_none=True)
    whole = parts.images_of_all(epoch, step, len(images))
    share = 0.5 if larger and parts.training.both_sizes else 1.0
    state.control.follow(scale * factor * share / (whole * pixels_of(batch.extent)))
    control = state.control.copies() if state.scaler.is_enabled() else []
    return *backward(parts, state, images, targets, factor, fewest, larger=larger), control


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that a step draws from: `torch.manual_seed` visits every accelerator, which takes longer."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def loss_scale(state: TrainState) -> Tensor | float:
    """The factor of float16's loss scaling, on the device; 1 in other precisions."""
    if not state.scaler.is_enabled():
        return 1.0
    scale: Tensor = state.scaler.scale(torch.ones((), device=state.optimizer.parameters[0].device))
    return scale.to(state.recorder.dtype)


def gradient_factor(state: TrainState, norm: Tensor, fine: Tensor) -> Tensor:
    """The factor by which clipping and smoothing multiply a gradient of this norm."""
    norm = norm.to(state.recorder.dtype)
    clip = state.optimizer.settings.clip_norm
    factor = torch.where(norm > clip, clip / norm, 1.0) if clip else torch.ones_like(norm)
    return factor * state.smoothing.factor(norm * factor, fine) if state.smoothing else factor


def backward(
    parts: Parts,
    state: TrainState,
    images: Tensor,
    targets: Tensor,
    factor: Tensor | float,
    fewest: int,
    *,
    alone: bool = False,
    larger: tuple[Tensor, Tensor] | None = None,
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Forward and backward in chunks, adding to the gradients.

    There are as many chunks as for `fewest` images, the same number in all processes. The loss of each is multiplied by
    `factor` and by its share in the batch of all processes, or, if `alone`, in that of this one. `larger` are the same
    images and their targets at the second size, where they are computed there, too.

    Returns:
        Names of the metrics of a step, their means (M,) over the batch of this process, and the loss: of the first
        chunk whose loss is not finite, or of the last.
    """
    both = Batches(images, targets, larger)
    pieces = chunk_slices(len(images), min(state.micro_batches.chunks(fewest), fewest))
    share_of_own, share_of_all = shares(parts, state, targets, pieces, alone=alone)
    share_of_larger = share_of_all
    if larger and larger[1] is not targets:
        _, share_of_larger = shares(parts, state, larger[1], pieces, alone=alone)
    means: Tensor | None = None
    seen: Tensor | None = None

    def weighed(loss: Tensor, share: Tensor | None) -> Tensor:
        if share is not None:
            return loss * (share * factor).to(loss.dtype)
        return loss * factor.to(loss.dtype) if isinstance(factor, Tensor) else loss

    def descend(*losses: Tensor, by: Sequence[Tensor | None]) -> None:
        total = functools.reduce(torch.add, (weighed(*each) for each in zip(losses, by, strict=True)))
        torch.autograd.backward(state.scaler.scale(total))

    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1 and not alone
        synchronised = contextlib.nullcontext() if last else parts.no_sync()
        of_all, of_larger = (None if each is None else each[number] for each in (share_of_all, share_of_larger))
        joint: tuple[Tensor, ...] = ()
        if parts.second:
            logits, loss, told, joint = taught_loss(
                parts, state, both.at(piece), synchronised, functools.partial(descend, by=(of_larger,))
            )
        else:
            with synchronised, parts.autocast():
                outputs = parts.forward(images[piece])
                loss = parts.task.loss(outputs, targets[piece])
            logits, told = main_logits(outputs).detach(), {"loss": loss}
        metrics = {**told, **parts.task.step_metrics(logits, targets[piece])}
        values = torch.stack([value.detach().float() for value in metrics.values()]).to(state.recorder.dtype)
        if share_of_own is not None:
            values = values * share_of_own[number]
        means = values if means is None else means + values
        seen = loss.detach() if seen is None else torch.where(seen.isfinite(), loss.detach(), seen)
        descend(loss, *joint, by=(of_all, of_larger)[: 1 + len(joint)])
    assert means is not None
    assert seen is not None
    return tuple(metrics), means, seen


def shares(
    parts: Parts, state: TrainState, targets: Tensor, pieces: list[slice], *, alone: bool
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The shares of chunks in the batch of this process, and in that of all, by what their losses are the means over.

    None where there is one chunk in one process. If `alone` the second are those of the first.
    """
    if len(pieces) == 1 and parts.world.size == 1:
        return None, None
    weights = torch.stack([parts.task.weight(targets[piece]) for piece in pieces])
    everyone = weights.sum()
    if not alone:
        parts.world.add(everyone)
    of_own, of_all = (weights.to(state.recorder.dtype) / whole.clamp(min=1) for whole in (weights.sum(), everyone))
    return of_own, of_all


def measure_copies(
    parts: Parts, state: TrainState, images: Tensor, targets: Tensor, fewest: int, copies: int
) -> Tensor:
    """The factor of adaptive gradient scaling for a batch, the mean over the processes."""
    control, unit, scale = state.control, state.control.unit, loss_scale(state)

    def norm(some_images: Tensor, some_targets: Tensor) -> Tensor:
        state.optimizer.torch.zero_grad(set_to_none=True)
        control.unit = unit
        with unchanged_buffers(state.model):
            control.follow(scale / (len(some_images) * images.shape[-2] * images.shape[-1]))
            share = fewest * len(some_images) // len(images)
            backward(parts, state, some_images, some_targets, 1.0, share, alone=True)
        return gradient_norm(state.optimizer.parameters).to(state.recorder.dtype)

    factor = copies_factor(norm, images, targets, copies)
    control.unit = unit
    parts.world.add(factor)
    return factor / parts.world.size
