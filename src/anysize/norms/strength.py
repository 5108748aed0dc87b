"""Statistics between those of training and those of a calibration: part of the way, in a part of the network.

    trained = statistics(model)
    with calibrated(model, batches_at_96):
        measured = statistics(model)
    with having_statistics(model, blended(trained, measured, strength=0.25)):
        evaluate(model)

`anysize.norms.choice` chooses how far to go. Nothing here knows of data.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from anysize.norms.running import running_norms, statistics_of
from anysize.registry import UserError

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Mean and variance, (C,) each, of every norm that keeps them, by its name, in the order of the network."""


def statistics(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of the running statistics of a model: of batch norms, and m and var of online norms.

    >>> statistics(nn.BatchNorm2d(2))
    {'BatchNorm2d': (tensor([0., 0.]), tensor([1., 1.]))}
    """
    norms = running_norms(model).items()
    return {name: (mean.clone(), var.clone()) for name, norm in norms for mean, var in [statistics_of(norm)]}


def blended(trained: Statistics, measured: Statistics, strength: float = 1.0, part: float = 1.0) -> Statistics:
    """Go from the statistics of training towards those of a calibration.

    Each mean and each variance goes the share `strength` of the way in a straight line, as batch norm does that counts
    the statistics of training as further images (Schneider et al., arXiv 2006.16971, equation 4). This holds for the
    first norms of the network alone, the share `part` of them, rounded up: what calibrates a norm was measured behind
    norms that were calibrated themselves, which is so in the first part of a network, and in no other part of it.

    Args:
        trained, measured: of the same norms, as `statistics` gives them.
        strength: 0 gives those of training to the bit, 1 the measured ones to the bit.
        part: of the norms in the order of the network; 0: none.

    Raises:
        UserError: a share that is not within 0 and 1, or statistics of different norms.

    >>> one, other = (torch.zeros(1), torch.ones(1)), (torch.ones(1), torch.full((1,), 5.0))
    >>> blended({"a": one, "b": one}, {"a": other, "b": other}, strength=0.5, part=0.5)
    {'a': (tensor([0.5000]), tensor([3.])), 'b': (tensor([0.]), tensor([1.]))}
    """
    for title, share in (("strength", strength), ("part", part)):
        if not 0 <= share <= 1:
            raise UserError(f"the {title} of a calibration is {share}; expected a share from 0 to 1")
    if list(trained) != list(measured):
        raise UserError("the statistics of training and those of a calibration are of different norms; expected one")
    first = [*trained][: math.ceil(part * len(trained))] if strength else []
    return {**trained, **{name: _between(trained[name], measured[name], strength) for name in first}}


def _between(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], strength: float) -> tuple[Tensor, Tensor]:
    return new if strength == 1 else (torch.lerp(old[0], new[0], strength), torch.lerp(old[1], new[1], strength))


@contextlib.contextmanager
def having_statistics(model: nn.Module, wanted: Statistics) -> Iterator[None]:
    """Within this context the norms of `model` have the statistics `wanted`, then their own again, to the bit.

    >>> norm = nn.BatchNorm2d(1)
    >>> with having_statistics(norm, {"BatchNorm2d": (torch.ones(1), torch.ones(1))}):
    ...     print(norm.running_mean)
    tensor([1.])
    >>> norm.running_mean
    tensor([0.])
    """
    before = statistics(model)
    try:
        store(model, wanted)
        yield
    finally:
        store(model, before)


def store(model: nn.Module, wanted: Statistics) -> None:
    """Give the norms of `model` these statistics, in place."""
    for name, norm in running_norms(model).items():
        for own, value in zip(statistics_of(norm), wanted[name], strict=True):
            own.copy_(value)
