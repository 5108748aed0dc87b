"""Observers: from the values that a place of a model takes, the range that is rounded.

    observer = OBSERVERS["mse"]()
    for values in ...: observer.add(values)
    low, high = observer.range()

What lies outside a range is cut off; what lies inside is rounded the finer, the narrower the range is.
"""

import abc
import math

import torch
from torch import Tensor

from anysize.models.surgery.quantization.quantizers import LEVELS, ValueQuantizer
from anysize.registry import Registry

OBSERVERS: "Registry[Observer]" = Registry("observer")


class Observer(abc.ABC):
    """Looks at values and names the range that is to be rounded."""

    @abc.abstractmethod
    def add(self, values: Tensor) -> None:
        """Look at the values of one batch, a tensor of any shape."""

    @abc.abstractmethod
    def range(self) -> tuple[float, float]:
        """The range, from at most 0 to at least 0."""


@OBSERVERS.register("minmax")
class MinMax(Observer):
    """All values that were seen.

    >>> observer = MinMax()
    >>> observer.add(torch.tensor([1.0, 4.0]))
    >>> observer.range()
    (0.0, 4.0)
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def add(self, values: Tensor) -> None:
        low, high = values.aminmax()
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())

    def range(self) -> tuple[float, float]:
        return self.low, self.high


@OBSERVERS.register("moving_average")
class MovingAverage(Observer):
    """The moving average of the smallest and the largest value of each batch, as in training."""

    def __init__(self) -> None:
        self.quantizer = ValueQuantizer()

    def add(self, values: Tensor) -> None:
        self.quantizer.observe(values.cpu())

    def range(self) -> tuple[float, float]:
        return self.quantizer.low.item(), self.quantizer.high.item()


class _Counting(Observer):
    """Counts values in bins of equal width on both sides of 0; the width doubles where values do not fit in."""

    BINS = 4096
    """On each side of 0."""
    SAMPLE = 2**20
    """Values of a batch that are counted."""

    def __init__(self) -> None:
        self.counts = torch.zeros(2 * self.BINS, dtype=torch.float64)
        self.width = 0.0
        self.low = self.high = 0.0

    def add(self, values: Tensor) -> None:
        values = values.detach().float().flatten()
        low, high = (value.item() for value in values.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if not self.width:
            self.width = 2.0 ** math.ceil(math.log2(max(largest, 1e-30) / self.BINS * 1.001))
        while largest >= self.width * self.BINS:
            pairs = self.counts.view(-1, 2).sum(1)
            self.counts.zero_()
            self.counts[self.BINS // 2 : self.BINS // 2 + self.BINS] = pairs
            self.width *= 2
        edge = self.width * self.BINS
        values = values[:: max(1, len(values) // self.SAMPLE) | 1]  # odd, so that all channels are among them
        self.counts += torch.histc(values, 2 * self.BINS, -edge, edge).double().cpu()

    def centers(self) -> Tensor:
        """The middle of each bin."""
        return (torch.arange(2 * self.BINS, dtype=torch.float64) - self.BINS + 0.5) * self.width


@OBSERVERS.register("histogram")
class Histogram(_Counting):
    """All values but the outermost hundred-thousandth on either side."""

    OUTSIDE = 1e-5

    def range(self) -> tuple[float, float]:
        share = self.counts.cumsum(0) / self.counts.sum()
        low = (int((share <= self.OUTSIDE).sum()) - self.BINS) * self.width
        high = (int((share < 1 - self.OUTSIDE).sum()) + 1 - self.BINS) * self.width
        return max(self.low, min(low, 0.0)), min(self.high, max(high, 0.0))


@OBSERVERS.register("mse")
class MeanSquaredError(_Counting):
    """The range at which the mean squared error of rounding and cutting off is smallest.

    The end on each side is searched in turn, in steps of a hundredth of the largest value.
    """

    STEPS = 100

    def range(self) -> tuple[float, float]:
        low, high = self.low, self.high
        for _ in range(3):
            before = low, high
            if self.high > 0:
                high = self.best([(low, self.high * step / self.STEPS) for step in range(1, self.STEPS + 1)])[1]
            if self.low < 0:
                low = self.best([(self.low * step / self.STEPS, high) for step in range(self.STEPS + 1)])[0]
            if before == (low, high):
                break
        return low, high

    def best(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """The range of the smallest error."""
        seen = self.counts > 0
        values, counts = self.centers()[seen], self.counts[seen]
        low, high = torch.tensor(ranges, dtype=torch.float64)[:, :, None].unbind(1)
        scale = ((high - low) / LEVELS).clamp(min=1e-30)
        zero = (-low / scale).round()
        rounded = ((values / scale + zero).round().clamp(0, LEVELS) - zero) * scale
        return ranges[int(((rounded - values).square() * counts).sum(1).argmin())]
