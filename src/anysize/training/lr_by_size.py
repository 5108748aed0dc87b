"""The learning rate of a step as a multiple of the schedule's, by the step's image size. Imports no torch.

A budget such as `B+` gives small images larger batches, whose gradients are less noisy: `optimizer.lr_by_batch` lets
the rate follow the batch of the size, by the rules that hold for the batch of a run (see `batch_rule`).
`optimizer.lr_by_size` is a table of your own. Where both are given they are multiplied.
"""

import math
from collections.abc import Iterable

from anysize.sizes.mix import SizeBatch
from anysize.sizes.multiples import multiple_at
from anysize.training.settings import OptimizerSettings


def lr_factor(settings: OptimizerSettings, size: int, batch_ratio: float = 1.0) -> float:
    """What the learning rate is multiplied by in a step at `size` pixels.

    Args:
        settings: lr_by_batch, and lr_by_size, between whose sizes the multiple is interpolated; the smallest and the
            largest one hold beyond.
        size: of the step's images, in pixels.
        batch_ratio: samples of a whole batch of that size, over those of one at the base size. Augmented copies of a
            sample do not count: they are no further samples.

    >>> lr_factor(OptimizerSettings(lr_by_batch="sqrt"), 14, batch_ratio=4.0)
    2.0
    >>> lr_factor(OptimizerSettings(lr_by_size={"14": 0.5, "28": 1.0}), 21)
    0.75
    """
    factor = {"none": 1.0, "linear": batch_ratio, "sqrt": math.sqrt(batch_ratio)}[settings.lr_by_batch]
    return factor * multiple_at(settings.lr_by_size, size)


def lr_factors(settings: OptimizerSettings, parts: Iterable[SizeBatch], batch_size: int) -> dict[int, float]:
    """The `lr_factor` of each size of an epoch, where `batch_size` samples make a batch at the base size.

    >>> from anysize.sizes.mix import SizeMix
    >>> parts = SizeMix.custom({28: 0.5, 14: 0.5}, base=28, budget="B+").batches(64)
    >>> lr_factors(OptimizerSettings(lr_by_batch="linear"), parts, 64)
    {28: 1.0, 14: 4.0}
    """
    return {part.size: lr_factor(settings, part.size, part.batch_size / batch_size) for part in parts}
