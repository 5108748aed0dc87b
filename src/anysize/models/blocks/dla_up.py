"""Deep layer aggregation upwards: the features of all resolutions merged into the finest (Yu et al., arXiv 1707.06484).

The iterative and hierarchical aggregation of section 4.2, as the Elastic networks use it for segmentation: a level that
is finer than the sides of an image divide is cut to the one that it is merged with, so that any size works.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anysize.models.blocks.scales import cut


def bilinear_upsampling(channels: int, factor: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution of each channel alone that starts as bilinear interpolation.

    (N, channels, H, W) to (N, channels, factor H, factor W), with an even factor. Its weights are trained unless they
    are frozen.

    >>> bilinear_upsampling(1)(torch.ones(1, 1, 3, 3))[0, 0, 2:4, 2:4].detach()
    tensor([[1., 1.],
            [1., 1.]])
    """
    assert factor % 2 == 0, "an odd factor would return a row and a column more"
    size = 2 * factor
    up = nn.ConvTranspose2d(channels, channels, size, factor, padding=factor // 2, groups=channels, bias=False)
    # w(i) = 1 - |i / f - c| with f = ceil(size / 2) and c = (2 f - 1 - f mod 2) / (2 f), as published; f is even here.
    centre = (2 * factor - 1) / (2 * factor)
    line = 1 - (torch.arange(size) / factor - centre).abs()
    with torch.no_grad():
        up.weight.copy_(torch.outer(line, line).expand_as(up.weight))
    return up


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the sides (divided by `stride`), batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class IterativeAggregation(nn.Module):
    """Merge the coarser levels one after the other into the first, each time into what came out of the one before.

    Args:
        outputs: channels of every result.
        inputs: channels of the levels, finest first.
        factors: how much coarser each level is than the first.
    """

    def __init__(self, outputs: int, inputs: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.count = len(inputs)
        for i, (channels, factor) in enumerate(zip(inputs, factors, strict=True)):
            self.add_module(f"proj_{i}", nn.Identity() if channels == outputs else conv_norm(channels, outputs, 1))
            self.add_module(f"up_{i}", nn.Identity() if factor == 1 else bilinear_upsampling(outputs, factor))
        for i in range(1, self.count):
            self.add_module(f"node_{i}", conv_norm(2 * outputs, outputs, 3))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The merged levels in the order in which they come about; the last one has seen all."""
        raised = [self.get_submodule(f"up_{i}")(self.get_submodule(f"proj_{i}")(levels[i])) for i in range(self.count)]
        x = raised[0]
        merged: list[Tensor] = []
        for i in range(1, self.count):
            x = self.get_submodule(f"node_{i}")(torch.cat((x, cut(raised[i], x)), 1))
            merged.append(x)
        return merged


class DlaUp(nn.Module):
    """Merge levels of 1, 1/2, 1/4, ... resolution, finest first, into one of the finest: (N, channels[0], H, W).

    >>> levels = [torch.zeros(1, 4, 9, 7), torch.zeros(1, 8, 5, 4), torch.zeros(1, 16, 3, 2)]
    >>> DlaUp([4, 8, 16]).eval()(levels).shape
    torch.Size([1, 4, 9, 7])
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.count = len(channels)
        inputs, scales = list(channels), [2**i for i in range(self.count)]
        for i in range(self.count - 1):
            first = self.count - 2 - i
            factors = [scale // scales[first] for scale in scales[first:]]
            self.add_module(f"ida_{i}", IterativeAggregation(channels[first], inputs[first:], factors))
            inputs[first + 1 :] = [channels[first]] * (i + 1)
            scales[first + 1 :] = [scales[first]] * (i + 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        layers = list(levels)
        for i in range(self.count - 1):
            first = self.count - 2 - i
            layers[first + 1 :] = self.get_submodule(f"ida_{i}")(layers[first:])
        return layers[-1]


__all__ = ["DlaUp", "IterativeAggregation", "bilinear_upsampling", "conv_norm"]
