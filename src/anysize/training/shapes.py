"""The input shapes of a run: trying the largest before the first epoch, compiling the model for each."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from anysize.models.measure.input_size import needs_two_images
from anysize.models.measure.largest_batch import black_pass
from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeBatch
from anysize.sizes.second_size import SecondSize
from anysize.sizes.shapes import SQUARE, Aspect, Extent, in_pixels, pixels_of, sides_of
from anysize.tasks.base import Outputs
from anysize.training.gradients import chunk_slices
from anysize.training.guards import out_of_memory_says
from anysize.training.length import RunLength
from anysize.training.settings import TrainingSettings

_ALONE = SecondSize(0)  # each step computes its own pass alone


class StepShape(NamedTuple):
    """So many images that go through the network at once, at a size.

    >>> StepShape(2, 10).pixels, StepShape(3, 8, Aspect(0.5)).extent, StepShape(3, 8).at(16).extent
    (200, (12, 6), 16)
    """

    images: int
    size: int
    aspect: Aspect = SQUARE

    @property
    def extent(self) -> Extent:
        """The pixels of an image: the side of a square, or height and width."""
        return self.aspect.extent(self.size)

    @property
    def pixels(self) -> int:
        """Of all images."""
        return self.images * pixels_of(self.extent)

    def at(self, size: int) -> "StepShape":
        """The same images at another size."""
        return self._replace(size=size)


def distinct_shapes(
    plan: BatchPlan, length: RunLength, chunks: Callable[[int], int]
) -> dict[StepShape, tuple[int, int]]:
    """Input shapes of a run, by chunk, with the (samples, copies) of their batch.

    `chunks` tells the number of chunks of a batch of so many images.
    """
    first: dict[tuple[SizeBatch, ...], int] = {}
    for span in plan.spans(len(length.steps)):
        first.setdefault(plan.sizes(span.start), span.start)
    return {
        StepShape(piece.stop - piece.start, batch.size, batch.aspect): (len(batch.indices), batch.copies)
        for epoch in first.values()
        for batch in plan.batches(epoch)
        for piece in chunk_slices(batch.images, chunks(batch.images))
    }


@contextlib.contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Put the buffers of `model`, running statistics among them, back afterwards."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def try_largest_step(
    model: nn.Module,
    forward: Callable[..., Outputs],
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    plan: BatchPlan,
    length: RunLength,
    training: TrainingSettings,
    *,
    channels: int,
    device: torch.device,
    memory_format: torch.memory_format,
    chunks: Callable[[int], int],
    second: SecondSize = _ALONE,
    all_passes: Callable[[int, Aspect], Callable[..., Outputs]] | None = None,
) -> None:
    """One forward and backward at the largest shape, so that running out of memory happens before the first epoch.

    `chunks` tells the number of chunks of a batch of so many images. Where a step computes more of its samples than its
    own pass, `second` says so, and `all_passes` gives all it computes of images, by its size and aspect: then the shape
    that is largest as it is loaded is tried, too. Leaves gradients, to be thrown away.

    Raises:
        OutOfMemory: names the shape.
        UserError: steps of one image where batch norm needs two.
    """
    shapes = distinct_shapes(plan, length, chunks)
    check_smallest_steps(model, shapes, training, channels)
    largest = [max(shapes, key=lambda shape: shape.pixels)]
    if second:
        largest.append(max(shapes, key=lambda shape: shape.at(second.loaded(shape.size)).pixels))
    model.train()
    for shape in dict.fromkeys(largest):
        samples, copies = shapes[shape]
        loaded = sides_of(shape.at(second.loaded(shape.size)).extent)
        compute = all_passes(shape.size, shape.aspect) if all_passes else forward
        says = out_of_memory_says(in_pixels(shape.extent), samples, copies, chunks(samples * copies))
        with unchanged_buffers(model), says:
            black_pass(compute, (shape.images, channels, *loaded), device, autocast, memory_format)


def check_smallest_steps(
    model: nn.Module, shapes: dict[StepShape, tuple[int, int]], training: TrainingSettings, channels: int
) -> None:
    """Raise a `UserError` if a forward pass of the run has one image where the model's norms need two.

    `shapes` are those of `distinct_shapes`.
    """
    for shape in sorted((shape for shape in shapes if shape.images == 1), key=lambda shape: shape.pixels):
        extent = shape.extent
        if not needs_two_images(model, extent, channels):
            continue
        samples, copies = shapes[shape]
        if samples * copies > 1:
            what = f"training.chunks {training.chunks} cuts a batch of {samples * copies} images into parts of one"
            remedy = f"lower it to {samples * copies // 2}"
        elif any(other.extent == extent and other.images > 1 for other in shapes):
            what = "a batch of an epoch is left with one image"
            remedy = "set training.drop_last, or another training.batch_size"
        else:
            what, remedy = "a batch is one image", "give a training.batch_size of 2 or more"
        raise UserError(
            f"{type(model).__name__} cannot train on one image of {in_pixels(extent, 'pixels')} a step, since batch "
            f"norm sees one value a channel in it, and {what}: {remedy}, or set model.norm to frozen_batch or group"
        )


def too_few_images(model: nn.Module, images: int, size: Extent, chunks: int, channels: int) -> bool:
    """Whether a batch of so many images has a part of one, and the norms of `model` need two."""
    return any(piece.stop - piece.start == 1 for piece in chunk_slices(images, chunks)) and needs_two_images(
        model, size, channels
    )


def compiled(
    model: nn.Module, plan: BatchPlan, length: RunLength, training: TrainingSettings, second: SecondSize = _ALONE
) -> Callable[..., Outputs]:
    """The model as the loop calls it: compiled, once for each shape, if the recipe says so.

    Raises:
        UserError: more distinct shapes than training.compile_shapes allows.
    """
    if not training.compile:
        return model
    steps = distinct_shapes(plan, length, lambda images: training.chunks)
    computed = {*steps, *(shape.at(second.size) for shape in steps if second.at_both(shape.size, shape.aspect))}
    shapes = {(shape.images, shape.extent) for shape in computed}
    if len(shapes) > training.compile_shapes:
        raise UserError(
            f"this run has {len(shapes)} distinct input shapes and training.compile would compile the model for each; "
            f"training.compile_shapes allows {training.compile_shapes}: raise it, use fewer sizes, or do not compile"
        )
    # Smaller parts, where memory asks for them, are other shapes.
    halvings = max(images for images, _ in shapes).bit_length() if training.micro_batches == "auto" else 1
    limit = len(shapes) * halvings + 2
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
    model_by_shape: Callable[..., Outputs] = torch.compile(model, dynamic=False)
    return model_by_shape
