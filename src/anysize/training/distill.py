"""What a step learns beside its targets: from a teacher, and from its samples at a second, larger size.

    images at the second size --+-- forward (teacher, or trained, too) ------+
                                |                                            |  how far the logits lie apart
                                +-- resized, antialiased -- forward -- loss -+

A batch is loaded at the larger of the two sizes, mixed once, and made smaller on the device, so that crop, flip, mixup,
holes and colours are those of the same picture at both. Settings: training.distill and those below it.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anysize.data.augment.square import resize
from anysize.models.blocks.auxiliary import logits_of
from anysize.sizes.shapes import SQUARE, Aspect
from anysize.tasks.base import Outputs, main_logits
from anysize.tasks.between import smooth_l1
from anysize.training.gradients import ControlVariables
from anysize.training.parts import Parts
from anysize.training.regime import value_at
from anysize.training.shapes import unchanged_buffers
from anysize.training.state import TrainState


class Taught(NamedTuple):
    """What came of a batch: its logits, the loss to go backward from, and means by name to tell of it.

    `joint` has the loss at the second size where that is to be gone backward from together with `loss`.
    """

    logits: Tensor
    loss: Tensor
    told: dict[str, Tensor]
    joint: tuple[Tensor, ...] = ()


class Batches(NamedTuple):
    """Images and targets of a step at its own size, and at the second one where they are computed there, too."""

    images: Tensor
    targets: Tensor
    larger: tuple[Tensor, Tensor] | None = None

    def at(self, piece: slice) -> "Batches":
        """A chunk of it."""
        larger = self.larger and (self.larger[0][piece], self.larger[1][piece])
        return Batches(self.images[piece], self.targets[piece], larger)


def at_own_size(parts: Parts, images: Tensor, targets: Tensor, size: int, aspect: Aspect = SQUARE) -> Batches:
    """A batch as it was loaded, and mixed, with what becomes of it at the size of its step."""
    sides = aspect.sides(size)
    if aspect.sides(parts.second.loaded(size)) == sides:
        return Batches(images, targets)
    smaller = resize(images, sides, parts.loader.transform.preprocessing.interpolation)
    smaller = smaller.contiguous(memory_format=parts.memory_format)
    masks = targets.ndim > 2 and targets.shape[-2:] == images.shape[-2:]
    fewer = F.interpolate(targets[:, None], sides, mode="nearest-exact")[:, 0] if masks else targets
    return Batches(smaller, fewer, (images, targets))


@contextlib.contextmanager
def teaching(model: nn.Module) -> Iterator[nn.Module]:
    """The model as a teacher: no gradient, and its running statistics, which a pass would move, stay as they are.

    Norms normalise by the batch, which is what calibration for the size would come to: running statistics are those of
    a mixture of sizes.
    """
    with torch.no_grad(), unchanged_buffers(model):
        yield model


def taught_loss(
    parts: Parts,
    state: TrainState,
    batch: Batches,
    synchronised: contextlib.AbstractContextManager[object],
    descend: Callable[[Tensor], object],
) -> Taught:
    """Forward passes of a batch, and its loss with what is taught and compared in it: each mean counts once in a step.

    Args:
        parts, state: of the training; `parts.second` says what is computed.
        batch: at its own size, and at the second one.
        synchronised: what the pass at the step's own size is made within: the last one of a step adds the gradients of
            all processes up.
        descend: goes backward from the loss at the second size, where nothing else hangs on its graph.
    """
    training, second, task = parts.training, parts.second, parts.task
    zero = torch.zeros((), device=batch.images.device)
    larger_loss, apart, unlike = zero, zero, zero
    larger_logits: Tensor | None = None
    if batch.larger and second.trains:
        # Gradients stay in this process until the last pass of the step.
        with parts.no_sync(), parts.autocast():
            outputs = parts.forward(batch.larger[0])
            larger_logits = main_logits(outputs)
            if training.both_sizes:
                larger_loss = task.loss(outputs, batch.larger[1])
        if not training.consistency:
            with at_unit_of(state.control, batch):
                descend(larger_loss / 2)
            larger_logits = larger_logits.detach()
    with synchronised, parts.autocast():
        teacher = teacher_logits(parts, state, batch, larger_logits)
        outputs = parts.forward(batch.images)
        logits = main_logits(outputs)
        own = loss = task.loss(outputs, batch.targets)
        if batch.larger and training.both_sizes:
            loss = loss / 2
        if teacher is not None:
            divergence = functools.partial(task.divergence, temperature=training.distill_temperature)
            apart = task.compare(divergence, logits, teacher, batch.targets)
            loss = loss + distill_weight(parts, state) * apart
        if training.consistency and larger_logits is not None:
            unlike = task.compare(distance(parts), logits, larger_logits, batch.targets)
            loss = loss + training.consistency * unlike
    told = {"loss": own}
    if training.both_sizes:
        told["larger_loss"] = larger_loss if batch.larger else own  # at the larger one of both sizes
    if second.teacher:
        told["distill"] = apart
    if training.consistency:
        told["consistency"] = unlike
    together = batch.larger and training.both_sizes and training.consistency
    return Taught(logits.detach(), loss, told, (larger_loss / 2,) if together else ())


@contextlib.contextmanager
def at_unit_of(control: ControlVariables, batch: Batches) -> Iterator[None]:
    """Within this context the control variables of online norms are in the unit of gradients at the second size."""
    unit = control.unit
    assert unit is not None
    assert batch.larger
    (height, width), (larger_height, larger_width) = (images.shape[-2:] for images in (batch.images, batch.larger[0]))
    control.follow(unit * ((height / larger_height) * (width / larger_width)))
    yield
    control.follow(unit)


def teacher_logits(parts: Parts, state: TrainState, batch: Batches, larger: Tensor | None) -> Tensor | None:
    """What the teacher says to a batch; None where the batch has none. `larger` are logits at the second size that
    were computed already."""
    seen = batch.images if batch.larger is None else batch.larger[0]
    if parts.second.teacher == "larger":
        if batch.larger is None or larger is not None:
            return None if larger is None else larger.detach()
        model = state.model
    elif parts.second.teacher:
        assert state.averaged
        model = state.averaged.model
        seen = batch.images if parts.second.teacher == "averaged" else seen
    else:
        return None
    with teaching(model):
        return main_logits(model(seen))


def distance(parts: Parts) -> Callable[[Tensor, Tensor], Tensor]:
    """How far logits at two sizes lie apart, as training.consistency_loss says it."""
    if parts.training.consistency_loss == "smooth-l1":
        return smooth_l1
    divergence = parts.task.divergence
    return lambda one, other: (divergence(one, other) + divergence(other, one)) / 2


def distill_weight(parts: Parts, state: TrainState) -> float:
    """training.distill_weight at the progress of the run."""
    schedule = parts.training.distill_weight
    if len(schedule) == 1:
        return float(schedule[0].value)
    epoch = parts.length.regime_epoch(state.progress.epoch, state.progress.step_in_epoch)
    return float(value_at(schedule, epoch))


def passes_of_size(parts: Parts, state: TrainState, size: int, aspect: Aspect) -> Callable[[Tensor], Outputs]:
    """A function of images as they are loaded that computes all that a step of this size computes of them, to try
    whether there is room for it."""

    def compute(images: Tensor) -> Outputs:
        batch = at_own_size(parts, images, images.new_zeros(len(images)), size, aspect)
        larger = logits_of(parts.forward(images)) if batch.larger and parts.second.trains else ()
        teacher_logits(parts, state, batch, larger[0] if larger else None)
        return *logits_of(parts.forward(batch.images)), *larger

    return compute
