"""Weights of the gradients of steps by their image size: given, or by the inverse of their measured variance.

They come behind clipping and smoothing: smoothing brings gradients to one norm, which would undo a weight of the loss.
What is weighed, and measured, is what the optimizer would be given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anysize.training.gradients import scale_gradients, wide

_MOMENTUM = 0.95  # of the running means: they reach back over about 20 steps of a size
_TINY = 1e-30


class GivenWeights:
    """Factors by size, as optimizer.size_weights gives them; 1 where it names none.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.sum().backward()
    >>> GivenWeights({14: 0.5}).apply([weight], 14, {}, torch.tensor(True))
    >>> weight.grad
    tensor([0.5000, 0.5000])
    """

    def __init__(self, weights: Mapping[int, float]) -> None:
        self.weights = dict(weights)

    def apply(self, parameters: Sequence[Tensor], size: int, steps: Mapping[int, int], fine: Tensor) -> None:
        """Multiply the gradients of a step of this size by its factor."""
        if (weight := self.weights.get(size, 1.0)) != 1:
            scale_gradients(parameters, torch.tensor(weight, device=fine.device))


class VarianceWeights:
    """Weigh the gradients of each size by the inverse of their variance, with a mean of 1 over the steps of an epoch.

    The mean m and the variance v of the gradients g of a size, summed over all weights, are running ones: the first
    gradient makes m = g, v = 0, and each that follows, with d = g - m and b = 0.95,

        m <- m + (1 - b) d            v <- b (v + (1 - b) |d|^2)

    (incremental weighted variance, Finch 2009), of which v / (1 - q), q the sum of the squares of all weights in it, is
    an estimate without bias. A step is weighed by what the steps before it have measured; a size that has not been
    trained twice has the weight 1. All stays on the device, and is the same in all processes, since gradients are.

    Args:
        names: of the parameters, which a checkpoint tells the means by.
        device: of the parameters.

    >>> weight, fine = torch.zeros(1, requires_grad=True), torch.tensor(True)
    >>> weights = VarianceWeights(["weight"])
    >>> for size, gradient in ((16, 1.0), (16, -1.0), (32, 0.5), (32, -0.5)):
    ...     weight.grad = torch.tensor([gradient])
    ...     weights.apply([weight], size, {16: 1, 32: 1}, fine)
    >>> [round(weights.weight(size, {16: 1, 32: 1}).item(), 3) for size in (16, 32)]  # variances 2 and 0.5
    [0.4, 1.6]
    """

    def __init__(self, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.names = tuple(names)
        self.device = device
        self.means: dict[int, list[Tensor]] = {}
        self._spread: dict[int, Tensor] = {}  # v
        self._squares: dict[int, Tensor] = {}  # q; 0: nothing was measured yet

    def apply(self, parameters: Sequence[Tensor], size: int, steps: Mapping[int, int], fine: Tensor) -> None:
        """Weigh the gradients of a step of this size, and measure them where `fine`, a truth on the device, holds.

        `steps` are the steps of the epoch by size.
        """
        weight = self.weight(size, steps)
        self._measure([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters], size, fine)
        scale_gradients(parameters, weight)

    def weight(self, size: int, steps: Mapping[int, int]) -> Tensor:
        """The factor of a step of this size, on the device."""
        sizes = [each for each in steps if each in self._squares]
        if size not in sizes:
            return torch.ones((), dtype=wide(self.device), device=self.device)
        squares = torch.stack([self._squares[each] for each in sizes])
        spread = torch.stack([self._spread[each] for each in sizes])
        known = (squares > 0) & (squares < 1)
        inverse = torch.where(known, (1 - squares) / spread.clamp(min=_TINY), 0.0)
        counts = [torch.full_like(spread[0], steps[each]) for each in sizes]
        times = torch.where(known, torch.stack(counts), 0.0)
        mean = (times * inverse).sum() / times.sum().clamp(min=1)
        place = sizes.index(size)
        return torch.where(known[place], inverse[place] / mean.clamp(min=_TINY), 1.0)

    @torch.no_grad()
    def _measure(self, gradients: Sequence[Tensor], size: int, fine: Tensor) -> None:
        if size not in self.means:
            self.means[size] = [torch.zeros_like(gradient) for gradient in gradients]
            self._spread[size], self._squares[size] = torch.zeros(2, dtype=wide(self.device), device=self.device)
        means, spread, squares = self.means[size], self._spread[size], self._squares[size]
        # Where the step is not made the mean takes the gradient's place, and nothing moves.
        apart = [torch.where(fine, new, mean) - mean for new, mean in zip(gradients, means, strict=True)]
        distance = torch.nn.utils.get_total_norm(apart).to(spread.dtype) ** 2
        first, rest = squares == 0, 1 - _MOMENTUM
        moved = torch.where(first, 0.0, _MOMENTUM * (spread + rest * distance))
        self._spread[size] = torch.where(fine, moved, spread)
        self._squares[size] = torch.where(fine, torch.where(first, 1.0, _MOMENTUM**2 * squares + rest**2), squares)
        torch._foreach_mul_(apart, torch.where(first, 1.0, rest).to(apart[0].dtype))
        torch._foreach_add_(means, apart)

    def state_dict(self) -> dict[str, Any]:
        """The means by `SIZE/NAME`, the rest JSON-ready."""
        means = {
            f"{size}/{name}": mean
            for size, held in self.means.items()
            for name, mean in zip(self.names, held, strict=True)
        }
        spread = {str(size): float(value) for size, value in self._spread.items()}
        squares = {str(size): float(value) for size, value in self._squares.items()}
        return {"spread": spread, "squares": squares, **means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""

        def scalars(values: Mapping[str, float]) -> dict[int, Tensor]:
            wanted = torch.zeros((), dtype=wide(self.device), device=self.device)
            return {int(size): wanted.new_tensor(value) for size, value in values.items()}

        self._spread, self._squares = scalars(state["spread"]), scalars(state["squares"])
        self.means = {
            size: [state[f"{size}/{name}"].to(self.device, copy=True) for name in self.names] for size in self._spread
        }


SizeWeights = GivenWeights | VarianceWeights
