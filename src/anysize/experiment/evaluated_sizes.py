"""The sizes and shapes that a model is evaluated at, and what an image costs there."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import nn

from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.shapes import EvaluatedShape
from anysize.norms.choice import Choice
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import Aspect, Extent


class EvaluatedSize(NamedTuple):
    """A size that is evaluated at, by whom, the settings that tell its row, and how many images have which shape."""

    size: int
    evaluator: Evaluator
    settings: str
    extents: dict[Extent, int]


def evaluated_size(extent: Extent, evaluator: Evaluator, settings: str) -> EvaluatedSize:
    """The side of squares as `evaluator` shows them, or a height and width that all its images are brought to."""
    if isinstance(extent, int):
        return EvaluatedSize(extent, evaluator, settings, evaluator.shape.extents(evaluator.validation, extent))
    height, width = extent
    aspect, size = Aspect.from_shape(height, width, math.gcd(height, width))
    told = f"{settings} shape={height}x{width}".strip()
    return EvaluatedSize(
        size, evaluator.in_shape(EvaluatedShape(aspect=aspect)), told, {extent: len(evaluator.validation)}
    )


def mean_flops(flops: Callable[[Extent], int | None], extents: Mapping[Extent, int]) -> int | None:
    """FLOPs of one image, the mean over images of several shapes; None where they are not known."""
    found = {extent: flops(extent) for extent in extents}
    total = sum(count * (found[extent] or 0) for extent, count in extents.items())
    return None if None in found.values() else round(total / sum(extents.values()))


def calibration_flops(
    evaluator: Evaluator, size: int, model: nn.Module, choice: Choice, flops: Callable[[Extent], int | None]
) -> int:
    """FLOPs that a calibration took: forward passes of images that calibrate, and of those that judge it."""

    def forward(batches: Iterable[Batch]) -> int:
        return sum(len(batch.indices) * (flops(batch.aspect.extent(batch.size)) or 0) for batch in batches)

    if not choice and not choice.images:  # too few images to judge by: nothing was tried
        return 0
    taken = forward(evaluator.calibration_batches(model, size))
    if choice.images:
        judging = functools.partial(evaluator.batches_of, evaluator.judging_loader.source)
        taken += len(choice.scores) * forward(judging(size))
        if not evaluator.labelled:  # what is decided at the size of training judges
            taken += forward(judging(evaluator.preprocessing.own_size))
    return taken


def default_sizes(base: int) -> list[int]:
    """Seven sizes from half to one and a half times the base, in steps of a sixth.

    >>> default_sizes(28)
    [14, 19, 23, 28, 33, 37, 42]
    """
    return [round(base * sixth / 6) for sixth in range(3, 10)]
