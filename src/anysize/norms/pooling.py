"""Running statistics pooled over processes that kept their own.

    with pooled(model, world):                # on every process
        evaluate(model)
        save(model)                           # the own statistics are back afterwards, to the bit

Each process of a training moves its running statistics by its own batches (`sync_batch` alone shares them at every
step). Pooled ones are those of all values that the processes saw, each process with the same weight: the mean of the
means, and the mean of the variances plus the variance of the means.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from anysize.norms.running import is_online, keeps_statistics, statistics_of
from anysize.world import World


def pooled_statistics(model: nn.Module, world: World) -> dict[str, Tensor]:
    """The running mean and variance of every norm pooled over `world`, by their names in the state_dict.

    Of an online norm `m` and `var`; its control variables are each process's own, as are counts of batches. Instance
    norms keep the mean over images of an image's variance, which is the mean over processes, too. Sums are in float64;
    statistics that are equal in all processes come out as they are, to the bit. All processes have to call this, with
    the same model, plain or wrapped by DDP, `AveragedModel` or `torch.compile`. In a world of one these are the model's
    own tensors.

    >>> pooled_statistics(nn.Sequential(nn.BatchNorm2d(2)), World())
    {'0.running_mean': tensor([0., 0.]), '0.running_var': tensor([1., 1.])}
    """
    found = list(_named(model))
    if world.size == 1 or not found:
        return {name: value for names, values, _ in found for name, value in zip(names, values, strict=True)}
    own_mean, var = (torch.cat([values[i].double() for _, values, _ in found]) for i in range(2))
    between = torch.cat([torch.full_like(values[0], not images, dtype=torch.float64) for _, values, images in found])
    mean = own_mean.clone()
    world.add(mean)
    mean /= world.size
    var += between * (own_mean - mean) ** 2
    world.add(var)
    var /= world.size
    sizes = [len(values[0]) for _, values, _ in found]
    parts = zip(found, mean.split(sizes), var.split(sizes), strict=True)  # type: ignore[no-untyped-call]
    return {
        name: value.to(old.dtype)
        for (names, values, _), *new in parts
        for name, old, value in zip(names, values, new, strict=True)
    }


@contextlib.contextmanager
def pooled(model: nn.Module, world: World) -> Iterator[Mapping[str, Tensor]]:
    """Give `model` its pooled statistics for the length of a `with` block, then put its own ones back exactly.

    All processes have to enter the block. Yields what `pooled_statistics` returns; in a world of one nothing is copied.
    """
    statistics = pooled_statistics(model, world)
    if world.size == 1:
        yield statistics
        return
    buffers = {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name in statistics}
    own = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        _fill(buffers, statistics)
        yield statistics
    finally:
        _fill(buffers, own)


@torch.no_grad()
def _fill(buffers: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, buffer in buffers.items():
        buffer.copy_(values[name])


def _named(model: nn.Module) -> Iterator[tuple[tuple[str, str], tuple[Tensor, Tensor], bool]]:
    """For each name of each norm: the names of its mean and variance, the two, whether they are of single images."""
    for name, module in model.named_modules(remove_duplicate=False):
        if keeps_statistics(module):
            ends = ("norm.m", "norm.var") if is_online(module) else ("running_mean", "running_var")
            first, second = (f"{name}.{end}" if name else end for end in ends)
            yield (first, second), statistics_of(module), isinstance(module, _InstanceNorm)
