"""The first batches of a size weigh alike in the running statistics of its norms.

A momentum of 0.1 leaves 35% of what the statistics began with after 10 batches, and of several sizes one may have had
no more when it is evaluated. So batch k weighs 1 / k where that is more than the momentum.

    batches = first_batches(norms, k=1)
    model(images)                           # moves the statistics by their momentum
    for batch in batches:
        batch.weigh()                       # and these as far as they go
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anysize.norms.running import is_online, keeps_statistics, statistics_of


class FirstBatch(NamedTuple):
    """A norm before the k-th batch moves its statistics: what these are, and how many batches moved them so far."""

    norm: Any
    k: int
    before: list[Tensor]
    tracked: Tensor | None

    @torch.no_grad()
    def weigh(self) -> None:
        """Let the statistics go as far as 1 / k of the way where the momentum took them less far."""
        times = 1 if self.tracked is None else (self.norm.num_batches_tracked - self.tracked).clamp(min=1)
        way = torch.as_tensor(1 - (1 - self.norm.momentum) ** times)  # a norm that a model calls twice moved twice
        factor = (1 / (self.k * way)).clamp(min=1.0)
        for before, value in zip(self.before, statistics_of(self.norm), strict=True):
            # data: a pass saves them for its backward pass, which does not read them, but asks whether they changed
            value.data.copy_(before + (value - before) * factor)


def first_batches(norms: Iterable[Any], k: int) -> list[FirstBatch]:
    """Those of the norms whose momentum is less than 1 / k, as they are before the k-th batch; online norms never.

    >>> norm = torch.nn.BatchNorm1d(1)
    >>> batches = first_batches([norm], k=1)
    >>> _ = norm(torch.tensor([[4.0], [6.0]]))
    >>> batches[0].weigh()
    >>> round(norm.running_mean.item(), 3), first_batches([norm], k=10)
    (5.0, [])
    """
    found = []
    for norm in norms:
        if keeps_statistics(norm) and not is_online(norm) and norm.momentum and norm.momentum * k < 1:
            tracked = getattr(norm, "num_batches_tracked", None)
            before = [value.clone() for value in statistics_of(norm)]
            found.append(FirstBatch(norm, k, before, None if tracked is None else tracked.clone()))
    return found
