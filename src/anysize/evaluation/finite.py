"""Outputs that are not finite: of which images they are, and the error that says so."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from anysize.data.loader import LoadedBatch
from anysize.models.checks import find_damaged
from anysize.registry import NotFinite, counted, some_of
from anysize.tasks.base import Forward, Task


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; waits for the device."""
    return bool(values.isfinite().all())


def images_not_finite(task: Task, forward: Forward, batch: LoadedBatch) -> list[int]:
    """The images of a batch, by their numbers in the data set, of which the outputs are not finite."""
    outputs = zip(batch.indices.tolist(), task.predictions(forward, batch), strict=True)
    return [index for index, output in outputs if not is_finite(output)]


def check_all_finite(
    found: Sequence[int], images: int, describe: Callable[[int], str], model: nn.Module | None = None
) -> None:
    """Raise `NotFinite` if there are images of which the outputs are not finite.

    Args:
        found: the numbers of these images.
        images: how many were looked at.
        describe: names an image.
        model: the error names the first of its tensors that is not finite, if there is one.

    >>> check_all_finite([], 10, "image {}".format)
    """
    if found:
        where = model and find_damaged(model)
        names = some_of([describe(index) for index in found])
        raise NotFinite(
            f"the outputs of the network are NaN or infinite for {len(found):,} of {counted(images, 'image')}: "
            f"{names}{f' (its {where} is not finite)' if where else ''}; it has diverged, or these images "
            "are at fault: take another checkpoint, or train with a lower optimizer.lr or with optimizer.clip_norm"
        )
