"""The largest batch that something holds for, found with few tries: doubled until it does not, then halved in between.

largest_that_fits(lambda batch: 3 * batch <= 100, most=1000)     # 33
"""

import contextlib
import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from anysize.machine import is_out_of_memory
from anysize.models.blocks.auxiliary import logits_of


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that `fits`; 0: not even 1 does.

    `fits` is taken to hold for all numbers below one that it holds for. It is asked about twice the logarithm of the
    answer often.

    >>> asked = []
    >>> largest_that_fits(lambda batch: asked.append(batch) or batch <= 37, most=1000), asked
    (37, [1, 2, 4, 8, 16, 32, 64, 48, 40, 36, 38, 37])
    >>> largest_that_fits(lambda batch: True, most=100), largest_that_fits(lambda batch: False, most=100)
    (100, 0)
    """
    good, bad = 0, 1
    while bad <= most and fits(bad):
        good, bad = bad, min(2 * bad, most) if bad < most else most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if middle <= most and fits(middle):
            good = middle
        else:
            bad = middle
    return good


def black_pass(
    forward: Callable[..., Tensor | tuple[Tensor, ...]],
    shape: tuple[int, int, int, int],
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> None:
    """A forward and backward pass of black images (N, C, H, W), to see whether there is room; it leaves gradients."""
    images = torch.zeros(shape, device=device).contiguous(memory_format=memory_format)
    with autocast():
        outputs = forward(images)
    torch.autograd.backward([part.float().square().mean() for part in logits_of(outputs)])


def fits_into_memory(model: nn.Module, do: Callable[[], object]) -> bool:
    """Whether `do` does not run out of memory; the gradients that it leaves to `model` are thrown away.

    >>> model = nn.Conv2d(3, 4, 1)
    >>> fits_into_memory(model, lambda: black_pass(model, (2, 3, 8, 8), torch.device("cpu")))
    True
    """
    try:
        do()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    return True


def give_back(device: torch.device) -> None:
    """Let go of what a pass has left in memory, behind one that failed."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
