"""The image sizes that a model takes, found out before anything is trained or evaluated."""

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn

from anysize.machine import is_short
from anysize.models.measure.at_once import ShapesAtOnce
from anysize.models.measure.meta import device_of, meta_copy
from anysize.norms.running import is_online
from anysize.norms.synchronised import each_alone
from anysize.registry import UserError, counted
from anysize.sizes.shapes import Extent, in_pixels, sides_of


def smallest_size(model: nn.Module, in_channels: int = 3, largest: int = 1024) -> int:
    """Side (pixels) of the smallest square images that `model` takes in evaluation.

    Computes shapes alone, on the meta device. Doubles the size until one is taken, then bisects, so that a model
    which takes one size alone is found out at the usual sizes 224, 256, 299 and 384.

    Raises:
        UserError: the model takes no size up to `largest`.

    >>> from anysize.models.spec import create_model
    >>> smallest_size(create_model("inception_v3"))
    75
    """
    return _search(model, in_channels, largest=largest)[1]


def check_size(model: nn.Module, size: Extent, in_channels: int = 3, *, training: bool = False) -> None:
    """Do nothing if `model` takes images (N, in_channels, size, size), otherwise say why it does not.

    Asks it in evaluation, or with `training` in training, where an auxiliary classifier may take large images alone. A
    `size` of two numbers is height and width.

    Raises:
        UserError: with torch's reason and the smallest size that the model takes.

    >>> from anysize.models.spec import create_model
    >>> check_size(create_model("alexnet"), 32)
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: model AlexNet cannot take images of 32 pixels: ...; the smallest it takes is 63
    """
    refused = _refusal(meta_copy(model).train(training), size, in_channels)
    if refused is None:
        return
    named = in_pixels(size, "pixels")
    if isinstance(refused, UserError):  # of a module of ours: it says what to do, and may take one size alone
        raise UserError(f"model {type(model).__name__} cannot take images of {named}: {refused}")
    probe, smallest = _search(model, in_channels, training)
    reason = _refusal(probe, size, in_channels)
    if reason is not None:
        raise UserError(
            f"model {type(model).__name__} cannot take images of {named}: {_first_line(reason)}; "
            f"the smallest it takes is {smallest}"
        )


def needs_two_images(model: nn.Module, size: Extent, in_channels: int = 3, *, calibrated: bool = False) -> bool:
    """Whether `model` trains on two images (in_channels, size, size) a step and not on one.

    Batch norm of one value a channel, as behind a global average, has no deviation. Asked on the meta device where the
    model can do that. With `calibrated` it is asked of a calibration, in which online norms are batch norms, too.

    >>> needs_two_images(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)), size=2)
    True
    """
    for copied in (meta_copy, copy.deepcopy):
        probe = copied(model).train()
        for norm in filter(is_online, probe.modules() if calibrated else ()):
            norm.forward = functools.partial(F.batch_norm, running_mean=None, running_var=None, training=True)
        if _refusal(probe, size, in_channels) is None:
            return _refusal(probe, size, in_channels, images=1) is not None
    return False


def _search(model: nn.Module, in_channels: int, training: bool = False, largest: int = 1024) -> tuple[nn.Module, int]:
    """The copy of the model that was asked, and the smallest size that it takes.

    A model that can do nothing on the meta device, for want of a kernel or because it reads values, is asked for real.
    """
    for copied in (meta_copy, copy.deepcopy):
        probe = copied(model).train(training)
        refused = 0
        for size in sorted({*(1 << i for i in range(largest.bit_length())), 224, 299, 384}):
            if _refusal(probe, size, in_channels) is None:
                while size - refused > 1:
                    middle = (refused + size) // 2
                    if _refusal(probe, middle, in_channels) is None:
                        size = middle
                    else:
                        refused = middle
                return probe, size
            refused = size
    raise UserError(
        f"model {type(model).__name__} takes no images of {counted(in_channels, 'channel')}, whatever their size up "
        f"to {largest} "
        f"pixels: {_first_line(_refusal(probe, 224, in_channels))}"
    )


def _refusal(model: nn.Module, size: Extent, in_channels: int, images: int = 2) -> Exception | None:
    try:
        with torch.no_grad(), each_alone(), ShapesAtOnce():
            model(torch.zeros(images, in_channels, *sides_of(size), device=device_of(model)))
    except Exception as error:  # whatever a model says to a size that it cannot take
        if is_short(error):
            raise
        return error
    return None


def _first_line(error: Exception | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
