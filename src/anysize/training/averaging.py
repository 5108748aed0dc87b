"""Averaged weights: a copy of the model whose weights are an exponential moving average over the steps."""

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from anysize.models.surgery.quantization.quantizers import ValueQuantizer
from anysize.norms.by_size.norm import newly_trained


class AveragedWeights:
    """A model that follows another one: theta' <- d theta' + (1 - d) theta, for parameters and running statistics.

    `torch.optim.swa_utils` averages; its `AveragedModel` asks a counter on the host in every update, which a step may
    not. Integers, such as counts of batches, are copied, and so are ranges of values that are rounded: an end of one
    that was not seen yet is infinite, and all that follows from the two ends belongs together. What norms by size have
    of a size that is trained at for the first time is copied, too.

    Args:
        model: whose weights are averaged; the copy starts with them.
        every: steps between two updates.
        decay: d.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> averaged = AveragedWeights(model, every=2, decay=0.75)
    >>> _ = nn.init.constant_(averaged.model.weight, 0.0), nn.init.constant_(model.weight, 4.0)
    >>> for step in (1, 2, 3):
    ...     averaged.update(model, step)
    >>> averaged.model.weight.item()
    1.0
    """

    def __init__(self, model: nn.Module, every: int, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.every = every
        ranges = (each for each in self.model.modules() if isinstance(each, ValueQuantizer))
        self._copied = {id(buffer) for each in ranges for buffer in each.buffers()}
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, *, restart: bool = False) -> None:
        """Follow `model` after its step number `step`, if it is time; with `restart` become equal to it."""
        if step % self.every:
            return
        first = newly_trained(self.model, model)
        pairs = [(own, new.detach()) for own, new in zip(_tensors(self.model), _tensors(model), strict=True)]
        floating = [] if restart else [pair for pair in pairs if self._is_averaged(pair[0])]
        if floating:
            self._average([own for own, _ in floating], [new for _, new in floating], 0)
        for own, new in pairs:
            if restart or not self._is_averaged(own):
                own.copy_(new)
        for own, new in first:
            own.copy_(new)

    def _is_averaged(self, own: Tensor) -> bool:
        return own.is_floating_point() and id(own) not in self._copied

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters and buffers, by the names of the model's."""
        tensors: dict[str, Tensor] = self.model.state_dict()
        return tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.model.load_state_dict(state)


def average_decay(decay: float, every: int, batch_size: int, epochs: int) -> float:
    """The decay of an update for a batch of all processes, as torchvision's reference training adjusts it.

    1 - min(1, (1 - decay) batch_size every / epochs): `decay` is written for an update after each image of a run of one
    epoch, so that the average reaches as far back in shares of a run, whatever its batch and length.

    >>> round(average_decay(0.99998, every=32, batch_size=1024, epochs=600), 6)
    0.998908
    """
    return 1 - min(1.0, (1 - decay) * batch_size * every / epochs)


def _tensors(model: nn.Module) -> "itertools.chain[Tensor]":
    return itertools.chain(model.parameters(), model.buffers())
